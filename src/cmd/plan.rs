//! `plan`, and the reading of a bundle that it shares with `create` and `run`.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::value::RawValue;

use crate::cli::{Bundle, CgroupManager, Global, Plan};
use crate::error::{Doing, Error, Result};
use crate::log::Log;
use crate::plan::{self, Options};
use crate::state::check_id;
use crate::sys::Call;
use crate::{cgroup, host, spec};

/// Bytes of a config.json; more is a mistake or an attack.
const LONGEST: u64 = 16 << 20;

/// `tare plan`
pub fn plan(args: &Plan, global: &Global, log: &mut Log) -> Result<i32> {
    let options = options(&args.bundle, global, &args.id)?;
    let (spec, _) = load(&args.bundle, &options.bundle, log)?;
    let cgroup = if options.no_cgroup { None } else { cgroup::Host::find().ok() };
    let mut facts = host::facts(cgroup.as_ref())?;
    // The plan is the one that root would carry out.
    facts.privileged = true;
    facts.permitted = u64::MAX;
    let mut warnings = Vec::new();
    let plan = plan::plan(&spec, &facts, &options, &mut warnings)?;
    if args.json {
        let json = serde_json::to_string_pretty(&plan).map_err(|e| Error::new(format!("print the plan: {e}")))?;
        super::print(&json)?;
    } else {
        let warnings: String = warnings.iter().map(|w| format!("note: {w}\n")).collect();
        super::print(&format!("{plan}{warnings}"))?;
    }
    Ok(0)
}

/// The options that `create`, `run` and `plan` share.
pub fn options(args: &Bundle, global: &Global, id: &str) -> Result<Options> {
    check_id(id)?;
    let dir = &args.bundle;
    let bundle = std::fs::canonicalize(dir).call("realpath", || format!("{dir:?}"));
    let bundle = bundle.doing("find the bundle").map_err(|e| e.field("--bundle"))?;
    Ok(Options {
        id: id.into(),
        bundle,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        no_cgroup: global.cgroup_manager == CgroupManager::Disabled,
        systemd: (global.systemd_cgroup || global.cgroup_manager == CgroupManager::Systemd).then(host::systemd),
        tree: args.mount_namespace,
        ..Options::default()
    })
}

/// Reads and checks config.json; returns it as a type and as it is.
pub fn load(args: &Bundle, bundle: &Path, log: &mut Log) -> Result<(Spec, Box<RawValue>)> {
    let path: PathBuf = match &args.config {
        Some(path) => path.clone(),
        None => bundle.join("config.json"),
    };
    let args = || format!("{path:?}");
    let doing = "read the container's configuration";
    let hint = |e: Error| match e.errno() {
        Some(nix::errno::Errno::ENOENT) => e.hint("tare spec writes one to start from"),
        _ => e,
    };
    let file = std::fs::File::open(&path).call("open", args).doing(doing).map_err(hint)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).call("read", args).doing(doing)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(format!("config.json has more than {} MiB", LONGEST >> 20)).field("config.json"));
    }
    let text = String::from_utf8(bytes).map_err(|e| Error::new(format!("not UTF-8: {e}")).field("config.json"))?;
    let mut warnings = Vec::new();
    let parsed = spec::parse(&text, &mut warnings)?;
    spec::check(&parsed, &mut warnings)?;
    log.warnings(warnings);
    let raw = RawValue::from_string(text).map_err(|e| Error::new(format!("{e}")).field("config.json"))?;
    Ok((parsed, raw))
}
