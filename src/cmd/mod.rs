//! The subcommands: load, plan, act. No system calls here.

mod create;
mod delete;
mod events;
mod exec;
mod kill;
mod list;
mod pause;
mod plan;
mod ps;
mod spec;
mod state;
mod update;

use std::path::PathBuf;

use crate::cli::{Cli, Command, Global};
use crate::error::{Error, Result};
use crate::host;
use crate::log::Log;
use crate::state::Store;

/// Carries out the command and returns the exit status.
pub fn run(cli: Cli, log: &mut Log) -> Result<i32> {
    let global = &cli.global;
    let store = || root(global).map(Store::new);
    match &cli.command {
        Command::Create(args) => create::create(args, global, &store()?, log),
        Command::Run(args) => create::run(args, global, &store()?, log),
        Command::Exec(args) => exec::exec(args, &store()?, log),
        Command::Start(args) => create::start(&args.id, &store()?),
        Command::State(args) => state::state(&args.id, &store()?),
        Command::List(args) => list::list(args, &store()?),
        Command::Kill(args) => kill::kill(args, &store()?),
        Command::Delete(args) => delete::delete(args, &store()?, log),
        Command::Pause(args) => pause::pause(&args.id, &store()?),
        Command::Resume(args) => pause::resume(&args.id, &store()?),
        Command::Ps(args) => ps::ps(args, &store()?),
        Command::Events(args) => events::events(args, &store()?),
        Command::Update(args) => update::update(args, &store()?, log),
        Command::Spec(args) => spec::spec(args),
        Command::Features => spec::features(),
        Command::Plan(args) => plan::plan(args, global, log),
    }
}

/// The state's directory. Real root has its own, whatever the environment says; Podman sets XDG_RUNTIME_DIR to nothing.
fn root(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        return std::path::absolute(root).map_err(|e| Error::new(format!("{root:?}: {e}")).field("--root"));
    }
    let euid_root = rustix::process::geteuid().is_root();
    if host::is_privileged() {
        return Ok("/run/tare".into());
    }
    let honour = !euid_root || std::env::var("USER").as_deref() != Ok("root");
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| honour && !dir.is_empty()) {
        Some(dir) => Ok(PathBuf::from(dir).join("tare")),
        None if euid_root => Ok("/run/tare".into()),
        None => Err(Error::new("neither --root nor XDG_RUNTIME_DIR says where to keep the state")),
    }
}

/// The lines of `--version`, of which Docker reads the first two.
pub fn version() -> String {
    let seccomp =
        libseccomp::ScmpVersion::current().map(|v| format!("\nlibseccomp: {}.{}.{}", v.major, v.minor, v.micro));
    format!(
        "tare version {}\ncommit: {}\nspec: {}{}",
        env!("CARGO_PKG_VERSION"),
        option_env!("TARE_COMMIT").unwrap_or("unknown"),
        crate::spec::VERSION,
        seccomp.unwrap_or_default()
    )
}

/// Prints to standard output; whoever reads it may be gone.
fn print(text: &str) -> Result<()> {
    use crate::error::Doing;
    use crate::sys::Call;
    use std::io::Write;
    writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')).call("write", || "stdout".into()).doing("print")
}
