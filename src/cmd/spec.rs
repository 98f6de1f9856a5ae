//! `spec` and `features`.

use std::io::Write;

use crate::cli::Spec;
use crate::error::{Doing, Error, Result};
use crate::seccomp;
use crate::sys::Call;
use crate::{host, spec};

/// `tare spec`
pub fn spec(args: &Spec) -> Result<i32> {
    let profile = match &args.seccomp {
        Some(name) => Some(seccomp::builtin(name).ok_or_else(|| {
            Error::new(format!("no profile {name:?}: there are {}", seccomp::NAMES.join(", "))).field("--seccomp")
        })?),
        None => None,
    };
    let me = || spec::Rootless { uid: host::euid(), gid: host::egid() };
    let text = spec::default_config(args.rootless.then(me), profile)?;
    let path = args.bundle.join("config.json");
    let file = std::fs::File::options().write(true).create_new(true).open(&path).call("open", || format!("{path:?}"));
    let mut file = match file {
        Err(e) if e.errno == nix::errno::Errno::EEXIST => {
            return Err(Error::new(format!("file {} exists. Remove it first", path.display())));
        }
        r => r.doing("write config.json").map_err(|e| e.field("--bundle"))?,
    };
    file.write_all(text.as_bytes()).call("write", || format!("{path:?}")).doing("write config.json")?;
    Ok(0)
}

/// `tare features`
pub fn features() -> Result<i32> {
    let text = serde_json::to_string_pretty(&spec::features()).map_err(|e| Error::new(e.to_string()))?;
    super::print(&text)?;
    Ok(0)
}
