//! `create`, `run`, `start`.

use std::path::Path;

use nix::sys::signalfd::SignalFd;

use super::plan::{load, options};
use crate::cli::{Create, Global, Run};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::plan::Options;
use crate::run::create::{Created, Request};
use crate::run::{cleanup, foreground, start as starting};
use crate::state::Store;

/// `tare create`
pub fn create(args: &Create, global: &Global, store: &Store, log: &mut Log) -> Result<i32> {
    make(args, global, store, &foreground::take_signals()?, false, log).map(|_| 0)
}

/// `tare run`
pub fn run(args: &Run, global: &Global, store: &Store, log: &mut Log) -> Result<i32> {
    let signals = foreground::take_signals()?;
    if !args.detach && !args.no_subreaper {
        foreground::become_subreaper()?;
    }
    let created = make(&args.create, global, store, &signals, true, log)?;
    if args.detach {
        return Ok(0);
    }
    log.succeed();
    let status = foreground::wait(&created.child, &signals)?;
    if !args.keep {
        let lock = created.container.lock();
        // Somebody else may have deleted it already.
        if lock.is_ok() {
            cleanup::delete(&created.container, Some(&created.container.load()?))?;
        }
    }
    Ok(status)
}

/// `tare start`
pub fn start(id: &str, store: &Store) -> Result<i32> {
    starting::start(&store.open(id)?).map(|()| 0)
}

fn make(
    args: &Create,
    global: &Global,
    store: &Store,
    signals: &SignalFd,
    run: bool,
    log: &mut Log,
) -> Result<Created> {
    if args.console_socket.is_some() {
        return Err(Error::new("not supported yet").field("--console-socket"));
    }
    let mut options = options(&args.bundle, global, &args.id)?;
    options.run = run;
    options.preserve_fds = args.preserve_fds;
    socket_activation(&mut options);
    let (spec, config) = load(&args.bundle, &options.bundle, log)?;
    let request = Request {
        store,
        options,
        spec: &spec,
        config,
        pid_file: args.pid_file.as_deref(),
        pidfd_socket: args.pidfd_socket.as_deref().map(Path::new),
        signals,
    };
    crate::run::create::create(request, log)
}

/// Descriptors passed by LISTEN_FDS (sd_listen_fds(3)) follow stderr and go on to the container, before those of
/// `--preserve-fds`. As with runc, LISTEN_PID must name this process.
fn socket_activation(options: &mut Options) {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if number("LISTEN_PID") == Some(std::process::id()) {
        options.listen_fds = number("LISTEN_FDS").unwrap_or(0);
        options.preserve_fds = options.preserve_fds.saturating_add(options.listen_fds);
    }
}
