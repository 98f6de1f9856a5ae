//! New limits for a running container: all of them, or none.

use std::os::fd::AsFd;

use super::fs::{Cgroup, read, write};
use super::limits::{Otherwise, Write};
use crate::error::{Error, Origin, Result};

/// What the files held before: file and value, in the order in which they were written.
#[derive(Debug, Default)]
pub struct Before(Vec<(String, String)>);

impl Before {
    /// As what would write it.
    pub fn writes(&self) -> Vec<Write> {
        let one = |(file, value): &(String, String)| Write {
            file: file.clone().into(),
            value: value.clone(),
            controller: "cgroup".into(),
            origin: Origin::field("linux.resources"),
            otherwise: Otherwise::Fail,
            unless_used: None,
        };
        self.0.iter().map(one).collect()
    }
}

impl Cgroup {
    /// Writes the values. When the kernel refuses one, those that were written before it are taken back.
    ///
    /// # Errors
    /// Those of [`Cgroup::apply`].
    pub fn replace(&self, writes: &[Write]) -> Result<Before> {
        let mut before = Before::default();
        for w in writes {
            for value in w.value.lines() {
                // What cannot be read (memory.reclaim) is no setting that could be put back.
                let Ok(text) = read(self.as_fd(), &w.file) else { continue };
                before.0.extend(old(&w.file, &text, value).map(|old| (w.file.to_string(), old)));
            }
        }
        match self.apply(writes) {
            Ok(()) => Ok(before),
            Err(e) => Err(self.put_back(before, e)),
        }
    }

    /// Puts back what was there, because of `error`.
    pub fn put_back(&self, before: Before, error: Error) -> Error {
        before.0.iter().rev().fold(error, |error, (file, value)| match write(self.as_fd(), file, value) {
            Ok(()) => error,
            Err(e) => error.and(Err(Error::sys(format!("put {file} back to {value:?}"), e).at(self.origin()))),
        })
    }
}

/// What must be written to put a file back, whose text is `text` now, after `new` was written to it.
fn old(file: &str, text: &str, new: &str) -> Option<String> {
    let text = text.trim();
    let key = new.split_whitespace().next().unwrap_or_default();
    let line = |key: &str| text.lines().find(|l| l.split_whitespace().next() == Some(key)).map(str::to_owned);
    match file {
        // A line for each device; none is the default.
        "io.max" => Some(line(key).unwrap_or_else(|| format!("{key} rbps=max wbps=max riops=max wiops=max"))),
        "rdma.max" => Some(line(key).unwrap_or_else(|| format!("{key} hca_handle=max hca_object=max"))),
        "io.weight" | "io.bfq.weight" if key.contains(':') => {
            Some(line(key).unwrap_or_else(|| format!("{key} default")))
        }
        "io.weight" | "io.bfq.weight" => line("default").or_else(|| text.parse::<u64>().ok().map(|n| n.to_string())),
        // An idle cgroup shows the weight 0, which cannot be written.
        "cpu.weight" if text == "0" => None,
        _ if text.lines().count() > 1 => None,
        _ => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::old;

    #[test]
    fn what_was_there() {
        for (file, text, new, want) in [
            ("pids.max", "max\n", "7", Some("max")),
            ("cpu.max", "max 100000\n", "50000 100000", Some("max 100000")),
            ("cpu.weight", "0\n", "59", None),
            ("cpuset.cpus", "\n", "0-1", Some("")),
            ("io.max", "", "8:0 rbps=1", Some("8:0 rbps=max wbps=max riops=max wiops=max")),
            (
                "io.max",
                "8:0 rbps=5 wbps=max riops=max wiops=max\n",
                "8:0 rbps=1",
                Some("8:0 rbps=5 wbps=max riops=max wiops=max"),
            ),
            ("io.weight", "default 100\n8:0 50\n", "200", Some("default 100")),
            ("io.weight", "default 100\n8:0 50\n", "8:0 200", Some("8:0 50")),
            ("io.weight", "default 100\n", "8:0 200", Some("8:0 default")),
            ("io.bfq.weight", "default 100\n", "200", Some("default 100")),
            ("memory.stat", "a 1\nb 2\n", "x", None),
        ] {
            assert_eq!(old(file, text, new).as_deref(), want, "{file} {new}");
        }
    }
}
