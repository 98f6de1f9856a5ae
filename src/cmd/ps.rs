//! `ps`: which processes the container has, as pids of the caller's pid namespace.

use std::process::Command;

use super::pause::cgroup;
use crate::cli::{ListFormat, Ps};
use crate::error::{Doing, Error, Result};
use crate::state::{Action, Store};
use crate::sys::Call;

/// `tare ps`. The table is that of ps(1) with the caller's options, less the processes that are not the container's.
pub fn ps(args: &Ps, store: &Store) -> Result<i32> {
    let (id, options) = args.args.split_first().ok_or_else(|| Error::new("missing").field("ID"))?;
    let container = store.open(id)?;
    let state = container.load()?;
    container.status(&state)?.allows(Action::Ps)?;
    let pids = cgroup(&state)?.pids()?;
    match args.format {
        ListFormat::Json => super::print(&serde_json::to_string(&pids).map_err(|e| Error::new(e.to_string()))?)?,
        ListFormat::Table => super::print(&table(&listing(options)?, &pids)?)?,
    }
    Ok(0)
}

/// What ps(1) prints.
fn listing(options: &[String]) -> Result<String> {
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = Command::new("ps").args(options).output();
    let output = output.call("execve", || format!("ps {}", options.join(" "))).doing("list the host's processes")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format!("ps {}: {}: {}", options.join(" "), output.status, why.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The header, and the lines of these processes.
fn table(listing: &str, pids: &[i32]) -> Result<String> {
    let mut lines = listing.lines();
    let header = lines.next().unwrap_or_default();
    let Some(column) = header.split_whitespace().position(|word| word == "PID") else {
        return Err(Error::new("couldn't find PID field in ps output").hint("the options of ps must let it print PID"));
    };
    let pid = |line: &&str| line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
    let ours = lines.filter(|line| pid(line).is_some_and(|pid| pids.contains(&pid)));
    Ok(std::iter::once(header).chain(ours).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn only_the_containers_lines() {
        let listing = "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sleep 12\nroot  112     1 x\n";
        assert_eq!(table(listing, &[12]).unwrap(), "UID   PID  PPID CMD\nroot   12     1 sleep 12");
        assert_eq!(table(listing, &[]).unwrap(), "UID   PID  PPID CMD");
        assert!(table("CMD\nx\n", &[1]).unwrap_err().to_string().contains("couldn't find PID field"));
    }
}
