//! Hooks (runtime-spec, config.md, "POSIX-platform Hooks"): programs that are run at points of a container's life, with its
//! state on their standard input.
//!
//! | kind                      | run by, in                                   | when                                         |
//! |---------------------------|----------------------------------------------|----------------------------------------------|
//! | prestart, createRuntime   | the parent                                   | the mounts are made, the root is not changed |
//! | createContainer           | the child, still with the host's paths       | after those                                  |
//! | startContainer            | the child, in its root, as its user          | `start` has come                             |
//! | poststart                 | `start` or `run`                             | the process is executed                      |
//! | poststop                  | `delete`, or a `create` that has failed      | all the rest is gone                         |
//!
//! A hook has the host's paths and, without an `env` of its own, the runtime's environment: never the image's
//! (CVE-2025-23266). Its state comes from a file, so that one that does not read it harms nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use serde_json::Value;

use super::spawn::ends_the_wait;
use crate::error::{Doing, Error, Origin, Result};
use crate::plan::{Hook, Hooks};
use crate::state::State;
use crate::sys::process::{self, Exec};
use crate::sys::{Call, clone, socket};

/// Bytes of a hook's output that an error tells.
const OUTPUT: usize = 4096;

/// What ends a hook, and the wait for it.
#[derive(Clone, Copy)]
pub enum Watch<'a> {
    /// A signal to the runtime.
    Signals(&'a SignalFd),
    /// The end of the parent, at the other end of this socket.
    Parent(BorrowedFd<'a>),
    /// Nothing.
    None,
}

impl Watch<'_> {
    fn poll_fd(&self) -> Option<PollFd<'_>> {
        match self {
            Watch::Signals(signals) => Some(PollFd::new(*signals, PollFlags::IN)),
            // Messages may lie there; only the hang-up counts, which is always told.
            Watch::Parent(socket) => Some(PollFd::from_borrowed_fd(*socket, PollFlags::empty())),
            Watch::None => None,
        }
    }

    /// It has been woken: whether that is the end.
    fn ends(&self) -> bool {
        match self {
            Watch::Signals(signals) => {
                let mut signals = std::iter::from_fn(|| signals.read_signal().ok().flatten());
                signals.any(|s| ends_the_wait(s.ssi_signo as i32).is_some())
            }
            Watch::Parent(_) => true,
            Watch::None => false,
        }
    }
}

/// Runs hooks one after the other. `pid` and `status` complete the state.
///
/// # Errors
/// The first one that cannot be executed, fails, or takes longer than its timeout; the others are not run then.
pub fn run(hooks: &Hooks, list: &[Hook], pid: i32, status: &str, dir: &OwnedFd, watch: Watch<'_>) -> Result<()> {
    let mut state = hooks.state.clone();
    state["pid"] = pid.into();
    state["status"] = status.into();
    list.iter().try_for_each(|hook| one(hooks, hook, &state, dir.as_fd(), watch).map_err(|e| e.at(origin(hook))))
}

/// The hooks of a container that is there, if its configuration has the word.
pub fn saved(state: &State, word: &str) -> Result<Option<Hooks>> {
    let Some(config) = state.config.as_ref().filter(|c| c.get().contains(word)) else { return Ok(None) };
    let spec = crate::spec::parse(config.get(), &mut Vec::new())?;
    Ok(Hooks::of(&spec, &state.id, &state.bundle))
}

/// Where hooks of the runtime start.
pub fn bundle(hooks: &Hooks) -> Result<OwnedFd> {
    let path = hooks.state["bundle"].as_str().unwrap_or("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // It may be gone when the container is deleted.
    let open = |path: &str| rustix::fs::open(path, flags, Mode::empty()).call("open", || format!("{path:?}"));
    open(path).or_else(|_| open("/")).doing("open the bundle for hooks")
}

/// The hooks poststop: all of them, whatever the others do.
///
/// Returns what failed: the container is gone all the same (runtime.md, "Lifecycle").
pub fn poststop(hooks: &Hooks) -> Vec<Error> {
    let dir = match bundle(hooks) {
        Ok(dir) => dir,
        Err(e) => return vec![e],
    };
    let one = |hook| run(hooks, std::slice::from_ref(hook), 0, "stopped", &dir, Watch::None).err();
    hooks.poststop.iter().filter_map(one).collect()
}

fn origin(hook: &Hook) -> Origin {
    Origin::new(hook.field.clone(), hook.path.clone())
}

fn one(hooks: &Hooks, hook: &Hook, state: &Value, dir: BorrowedFd<'_>, watch: Watch<'_>) -> Result<()> {
    let input = input(state)?;
    let (output, writer) = output(hooks)?;
    let env = hook.env.clone().unwrap_or_else(environment);
    let args = if hook.args.is_empty() { vec![hook.path.clone()] } else { hook.args.clone() };
    let exec = Exec::new(&hook.path, &args, &env).doing("prepare the hook")?;
    let Some(child) = clone::fork().doing("make a process for the hook")? else {
        let [out, err] = &writer;
        become_hook(&exec, &input, out, err, dir)
    };
    drop(writer);
    let mut text = Vec::new();
    let end = wait(&child, output.as_ref(), &mut text, hook.timeout, watch);
    let status = match end {
        Ok(()) => clone::wait(&child.pidfd).doing("wait for the hook")?,
        Err(e) => {
            let _ = clone::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
            let _ = clone::wait(&child.pidfd);
            return Err(e);
        }
    };
    if status == clone::Exit::Code(0) {
        return Ok(());
    }
    let how = match status {
        clone::Exit::Code(NOT_EXECUTED) if text.is_empty() => "could not be executed".into(),
        clone::Exit::Code(code) => format!("exit status {code}"),
        clone::Exit::Signal(signal) => format!("signal {signal}"),
    };
    let text = String::from_utf8_lossy(&text).trim().replace('\n', " | ");
    let text = if text.is_empty() { String::new() } else { format!(": {text}") };
    Err(Error::new(format!("error running hook: {how}{text}")))
}

/// The runtime's own environment.
fn environment() -> Vec<String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        format!("{}={}", name.to_string_lossy(), value.to_string_lossy())
    };
    std::env::vars_os().map(text).collect()
}

/// As the shell has it.
const NOT_EXECUTED: i32 = 127;

/// The container's state, as a file to read from its beginning.
fn input(state: &Value) -> Result<OwnedFd> {
    let doing = "write the state for the hook";
    let file = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).call("memfd_create", || "\"state\"".into());
    let file = file.doing(doing)?;
    let text = state.to_string();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest).call("write", || "the state".into()).doing(doing)?;
        rest = &rest[n..];
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).call("lseek", || "0".into()).doing(doing)?;
    Ok(file)
}

/// Standard output and error of the hook: files that annotations name (`run.oci.hooks.stdout`, `.stderr`, as crun has them),
/// else a pipe for our error.
fn output(hooks: &Hooks) -> Result<(Option<OwnedFd>, [OwnedFd; 2])> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .call("pipe2", || "CLOEXEC".into())
        .doing("make a pipe")?;
    let file = |path: &Option<PathBuf>| match path {
        None => writer.try_clone().call("dup", String::new).doing("make a pipe"),
        Some(path) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o700)).call("open", || format!("{path:?}"));
            file.doing("open the file for the output of hooks").map_err(|e| e.field("annotations"))
        }
    };
    let files = [file(&hooks.stdout)?, file(&hooks.stderr)?];
    Ok((Some(reader), files))
}

/// In the hook's process: stdio, the directory, signals, and its program.
fn become_hook(exec: &Exec, input: &OwnedFd, out: &OwnedFd, err: &OwnedFd, dir: BorrowedFd<'_>) -> ! {
    let prepare = || -> crate::sys::Result<()> {
        rustix::stdio::dup2_stdin(input).call("dup2", String::new)?;
        rustix::stdio::dup2_stdout(out).call("dup2", String::new)?;
        rustix::stdio::dup2_stderr(err).call("dup2", String::new)?;
        process::close_on_exec_from(3)?;
        rustix::process::fchdir(dir).call("fchdir", String::new)?;
        process::reset_signals()
    };
    let error = match prepare() {
        Ok(()) => exec.run(),
        Err(e) => e,
    };
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error:#}").as_bytes());
    process::exit_now(NOT_EXECUTED)
}

/// Waits for the end of the hook, and gathers what it prints.
fn wait(
    child: &clone::Child,
    output: Option<&OwnedFd>,
    text: &mut Vec<u8>,
    seconds: Option<u64>,
    watch: Watch<'_>,
) -> Result<()> {
    let deadline = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let mut output = output;
    loop {
        let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        fds.extend(watch.poll_fd());
        fds.extend(output.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let left = deadline.map(|d| socket::timespec(d.saturating_duration_since(Instant::now())));
        match poll(&mut fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => {
                let seconds = seconds.unwrap_or(0);
                return Err(Error::new(format!("error running hook: hook ran past specified timeout of {seconds} s")));
            }
            r => r.call("poll", || "the hook".into()).map(drop).doing("wait for the hook")?,
        }
        let ended = !fds[0].revents().is_empty();
        if let Some(reader) = output.filter(|_| !fds[fds.len() - 1].revents().is_empty()) {
            let mut buffer = [0; 4096];
            match rustix::io::read(reader, &mut buffer) {
                Ok(n) if n > 0 => text.extend(&buffer[..n.min(OUTPUT.saturating_sub(text.len()))]),
                _ => output = None,
            }
            continue; // all that is there already, before the end is believed
        }
        if ended {
            return Ok(());
        }
        if watch.poll_fd().is_some() && !fds[1].revents().is_empty() && watch.ends() {
            return Err(Error::new("interrupted while a hook was running"));
        }
    }
}
