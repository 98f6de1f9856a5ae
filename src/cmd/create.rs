//! `create`, `run`, `start`.

use std::path::Path;

use nix::sys::signalfd::SignalFd;

use super::plan::{load, options};
use crate::cli::{Create, Global, Run};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::plan::Options;
use crate::run::create::{Created, Request};
use crate::run::hooks::Watch;
use crate::run::{cleanup, console, foreground, rootless, start as starting};
use crate::state::Store;
use crate::sys::clone;

/// `tare create`
pub fn create(args: &Create, global: &Global, store: &Store, log: &mut Log) -> Result<i32> {
    make(args, global, store, &foreground::take_signals()?, Way::Create, log).map(|_| 0)
}

/// `tare run`
pub fn run(args: &Run, global: &Global, store: &Store, log: &mut Log) -> Result<i32> {
    let signals = foreground::take_signals()?;
    if !args.detach && !args.no_subreaper {
        foreground::become_subreaper()?;
    }
    let way = if args.detach { Way::Detached } else { Way::Foreground };
    let created = make(&args.create, global, store, &signals, way, log)?;
    let (child, watch) = (&created.child, Watch::Signals(&signals));
    let started = starting::poststart(created.hooks.as_ref(), child.pid, &child.pidfd, watch);
    if args.detach {
        return started.map(|()| 0).map_err(|e| abandon(&created, e, log));
    }
    let wait = |()| {
        log.succeed();
        match &created.master {
            Some(master) => console::relay(master, child, &signals),
            None => foreground::wait(child, &signals),
        }
    };
    let status = started.and_then(wait).map_err(|e| abandon(&created, e, log))?;
    if !args.keep {
        let lock = created.container.lock();
        // Somebody else may have deleted it already.
        if lock.is_ok() {
            cleanup::delete(&created.container, Some(&created.container.load()?), log)?;
        }
    }
    Ok(status)
}

/// A container that nobody will look after is ended and removed.
fn abandon(created: &Created, error: Error, log: &mut Log) -> Error {
    let _ = clone::pidfd_send_signal(&created.child.pidfd, libc::SIGKILL);
    let _ = clone::wait(&created.child.pidfd);
    let deleted = created.container.lock().and_then(|_lock| {
        let state = created.container.load()?;
        cleanup::delete(&created.container, Some(&state), log)
    });
    error.and(deleted)
}

/// `tare start`
pub fn start(id: &str, store: &Store) -> Result<i32> {
    starting::start(&store.open(id)?).map(|()| 0)
}

/// Which command it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Create,
    Detached,
    Foreground,
}

fn make(args: &Create, global: &Global, store: &Store, signals: &SignalFd, way: Way, log: &mut Log) -> Result<Created> {
    let mut options = options(&args.bundle, global, &args.id)?;
    options.run = way != Way::Create;
    options.preserve_fds = args.preserve_fds;
    socket_activation(&mut options);
    let (spec, config) = load(&args.bundle, &options.bundle, log)?;
    rootless::enter(&spec)?;
    let terminal = spec.process().as_ref().is_some_and(|p| p.terminal() == Some(true));
    let console = console::prepare(terminal, args.console_socket.as_deref(), way != Way::Foreground)?;
    let request = Request {
        store,
        console,
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
pub fn socket_activation(options: &mut Options) {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if number("LISTEN_PID") == Some(std::process::id()) {
        options.listen_fds = number("LISTEN_FDS").unwrap_or(0);
        options.preserve_fds = options.preserve_fds.saturating_add(options.listen_fds);
    }
}
