//! The parent's side of a terminal: its master goes through `--console-socket`; or, in the foreground, what is typed goes to
//! the container and what it prints to us.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{self, OptionalActions, OutputModes, Termios};

use super::foreground::pass_on;
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::sys::clone::{self, Child};
use crate::sys::{Call, socket};

/// Where the child sends the master, and where we get it from in the foreground.
pub struct Console {
    /// For the child.
    pub to: OwnedFd,
    /// Ours, without a `--console-socket`.
    pub from: Option<OwnedFd>,
}

/// What a terminal needs, if there is to be one. The connection is made before anything else, so that a mistake costs nothing;
/// nobody waits for an answer: the other side may look only when we have ended.
///
/// # Errors
/// The flags and `process.terminal` do not fit together; the socket cannot be connected.
pub fn prepare(terminal: bool, socket: Option<&Path>, detach: bool) -> Result<Option<Console>> {
    match (terminal, socket) {
        (true, Some(path)) if detach => {
            let to = socket::connect_stream(path).doing("connect").map_err(|e| e.field("--console-socket"))?;
            Ok(Some(Console { to, from: None }))
        }
        (true, None) if detach => {
            let error = Error::new("cannot allocate tty if tare will detach without setting console socket");
            Err(error.field("process.terminal").hint("give --console-socket, or set process.terminal to false"))
        }
        (_, Some(_)) => {
            let error = Error::new("cannot use console socket if tare will not detach or allocate tty");
            Err(error.field("--console-socket"))
        }
        (true, None) => {
            let (from, to) = socket::pair().doing("make a socket pair for the terminal")?;
            Ok(Some(Console { to, from: Some(from) }))
        }
        (false, None) => Ok(None),
    }
}

/// Takes the master that the child has sent, and makes it ready while the child still waits: its process must not see the size
/// change, nor print a line before lines are left as they are.
pub fn receive(from: &OwnedFd) -> Result<OwnedFd> {
    let doing = "take the container's terminal";
    let message = socket::receive(from, 4096).doing(doing)?;
    let master = message.and_then(|(_, fd)| fd);
    let master = master.ok_or_else(|| Error::new("the container's process sent no terminal"))?;
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)
        .call("fcntl", || "F_SETFL".into())
        .doing(doing)?;
    // What comes out is for our stdout, which may be a file: a terminal there makes \r\n of \n itself.
    if let Ok(mut attributes) = termios::tcgetattr(&master) {
        attributes.output_modes -= OutputModes::ONLCR;
        let _ = termios::tcsetattr(&master, OptionalActions::Now, &attributes);
    }
    resize(&master);
    Ok(master)
}

/// Our own terminal as it was, for a panic as well: the shell is of no use in raw mode.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = termios::tcsetattr(stdin(), OptionalActions::Flush, &before);
    }
}

/// Our own terminal in raw mode, as long as this lives.
struct Raw;

impl Raw {
    /// None if stdin is no terminal.
    fn new() -> Result<Option<Raw>> {
        let Ok(before) = termios::tcgetattr(stdin()) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        // The container's terminal leaves lines as they are (see above), so that what we print ourselves is readable, too.
        raw.output_modes |= OutputModes::OPOST;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            others(info);
        }));
        let set = termios::tcsetattr(stdin(), OptionalActions::Now, &raw);
        set.call("ioctl", || "TCSETS".into()).doing("put the terminal into raw mode")?;
        Ok(Some(Raw))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Bytes on their way.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    written: usize,
}

impl Pipe {
    /// As much as a pipe takes without blocking once it says that it takes something (PIPE_BUF).
    const SIZE: usize = 4096;

    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Fills it; false at the end of the file.
    fn read(&mut self, from: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        self.bytes.resize(Self::SIZE, 0);
        self.written = 0;
        let n = rustix::io::read(from, &mut self.bytes);
        self.bytes.truncate(*n.as_ref().unwrap_or(&0));
        match n {
            Ok(n) => Ok(n > 0),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn write(&mut self, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
        match rustix::io::write(to, &self.bytes[self.written..]) {
            Ok(n) => self.written += n,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// What the loop waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Signal,
    End,
    Typed,
    TakesInput,
    Printed,
    TakesOutput,
}

/// Bytes that are read after the end: more than a terminal keeps, but others may go on to print for ever.
const REST: usize = 1 << 20;

/// Carries bytes between our stdio and the container's terminal until the process has ended, and returns its exit status.
/// Nothing is read that cannot be passed on, so whoever is slow slows the other side down.
pub fn relay(master: &OwnedFd, child: &Child, signals: &SignalFd) -> Result<i32> {
    let doing = "serve the container's terminal";
    let raw = Raw::new()?;
    faults::at("parent", "relay")?;
    let mut rest = REST;
    let (mut input, mut output) = (Pipe::default(), Pipe::default());
    let (mut stdin_open, mut stdout_open, mut master_open, mut ended) = (true, true, true, false);
    loop {
        let mut waits = vec![(Event::Signal, signals.as_fd(), PollFlags::IN)];
        let mut wait = |wanted: bool, event, fd, flags| waits.extend(wanted.then_some((event, fd, flags)));
        wait(!ended, Event::End, child.pidfd.as_fd(), PollFlags::IN);
        wait(!ended && stdin_open && input.is_empty(), Event::Typed, stdin(), PollFlags::IN);
        wait(!ended && master_open && !input.is_empty(), Event::TakesInput, master.as_fd(), PollFlags::OUT);
        wait(master_open && output.is_empty(), Event::Printed, master.as_fd(), PollFlags::IN);
        wait(!output.is_empty(), Event::TakesOutput, stdout(), PollFlags::OUT);
        let last_look = ended && output.is_empty();
        let ready = ready(&waits, last_look).doing(doing)?;
        for event in &ready {
            match event {
                Event::Signal => pass_on(signals, child, || resize(master)),
                Event::End => ended = true,
                Event::Typed => stdin_open = input.read(stdin()).unwrap_or(false),
                Event::TakesInput if input.write(master.as_fd()).is_err() => input = Pipe::default(),
                // EIO: nobody has the terminal open any more.
                Event::Printed => {
                    master_open = output.read(master.as_fd()).unwrap_or(false);
                    if ended {
                        rest = rest.saturating_sub(output.bytes.len());
                        master_open &= rest > 0;
                    }
                }
                Event::TakesOutput if output.write(stdout()).is_err() => stdout_open = false,
                Event::TakesInput | Event::TakesOutput => {}
            }
        }
        if !stdout_open {
            output = Pipe::default(); // nobody looks, which need not stop the container
        }
        // Everything that was printed before the end has been passed on.
        if last_look && output.is_empty() && (!master_open || !ready.contains(&Event::Printed)) {
            drop(raw);
            return clone::wait(&child.pidfd).map(|exit| exit.status()).doing("wait for the container's process");
        }
    }
}

/// Waits until something happens, or with `now` only looks.
fn ready(waits: &[(Event, BorrowedFd<'_>, PollFlags)], now: bool) -> crate::sys::Result<Vec<Event>> {
    let mut fds: Vec<_> = waits.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, now.then_some(&zero)) {
        Err(Errno::INTR) => return Ok(Vec::new()),
        done => done.map(drop).call("poll", || format!("{} descriptors", waits.len()))?,
    }
    Ok(waits.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|((event, _, _), _)| *event).collect())
}

/// The container's terminal gets the size of ours.
fn resize(master: &OwnedFd) {
    if let Ok(size) = termios::tcgetwinsize(stdin()) {
        let _ = termios::tcsetwinsize(master, size);
    }
}
