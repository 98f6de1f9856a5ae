//! Unix sockets: the pair between parent and child, the start socket, the passing of descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::{Call, Result};

/// A connected pair that keeps message boundaries. A peer that is gone is an end of file.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .call("socketpair", || "AF_UNIX, SOCK_SEQPACKET".into())
}

/// A listening socket at `name` in the directory `dir`, however long the directory's path is (sun_path holds 107 bytes).
pub fn listen(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str()).call("bind", || path.clone())?;
    let socket = socket()?;
    rustix::net::bind(&socket, &address).call("bind", || format!("{name:?}"))?;
    rustix::net::listen(&socket, 16).call("listen", || format!("{name:?}"))?;
    Ok(socket)
}

/// Connects to the socket `name` in the directory `dir`.
pub fn connect(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(path.as_str()).call("connect", || path.clone())?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address).call("connect", || format!("{name:?}"))?;
    Ok(socket)
}

/// Connects to a stream socket at a path of the caller's (`--pidfd-socket`), of any length.
pub fn connect_stream(path: &Path) -> Result<OwnedFd> {
    let args = || format!("{path:?}");
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).call("open", args)?;
    let name = path.file_name().unwrap_or_default();
    let address = SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name));
    let address = address.call("connect", args)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .call("socket", || "AF_UNIX, SOCK_STREAM".into())?;
    rustix::net::connect(&socket, &address).call("connect", args)?;
    Ok(socket)
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .call("socket", || "AF_UNIX, SOCK_SEQPACKET".into())
}

/// Accepts one connection; returns it and its peer's effective user id.
pub fn accept(listener: impl AsFd) -> Result<(OwnedFd, u32)> {
    let socket = loop {
        match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            r => break r.call("accept4", String::new)?,
        }
    };
    let uid = peer_uid(&socket)?;
    Ok((socket, uid))
}

/// The effective user id of who made the other end, as our user namespace has it.
pub fn peer_uid(socket: &OwnedFd) -> Result<u32> {
    // The peer's pid is 0 to who is in another pid namespace, which rustix's type for pids cannot hold; nix has plain numbers.
    let peer = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)
        .call("getsockopt", || "SO_PEERCRED".into())?;
    Ok(peer.uid())
}

/// Sends one message. A closed peer is `EPIPE`, never SIGPIPE.
pub fn send(socket: impl AsFd, message: &[u8]) -> Result<()> {
    loop {
        match rustix::net::send(&socket, message, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => continue,
            r => return r.map(drop).call("send", || format!("{} bytes", message.len())),
        }
    }
}

/// Sends one message and one descriptor with it.
pub fn send_fd(socket: impl AsFd, message: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .call("sendmsg", || format!("{} bytes, SCM_RIGHTS", message.len()))
}

/// Receives one message of at most `max` bytes, and the descriptor that came with it; `None` when the peer is gone.
pub fn receive(socket: impl AsFd, max: usize) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut buf = vec![0u8; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buf)];
        let got = match rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            r => r.call("recvmsg", String::new)?,
        };
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        buf.truncate(got.bytes);
        return Ok(Some((buf, fd)));
    }
}

/// Waits until one of the descriptors is ready (readable, ended, hung up) and says which are; `false` for all after
/// `seconds`, or never if that is `None`.
pub fn wait_any<const N: usize>(fds: [BorrowedFd<'_>; N], seconds: Option<i64>) -> Result<[bool; N]> {
    wait(fds, seconds.map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 }))
}

/// As [`wait_any`], for a duration.
pub fn wait_for<const N: usize>(fds: [BorrowedFd<'_>; N], time: Duration) -> Result<[bool; N]> {
    wait(fds, Some(timespec(time)))
}

/// As [`wait_any`], and whether the file `watched` has changed since it was last read (POLLPRI: cgroup.events).
pub fn wait_watching<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    watched: Option<BorrowedFd<'_>>,
    seconds: i64,
) -> Result<([bool; N], bool)> {
    let mut polled: Vec<_> = fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    polled.extend(watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::PRI)));
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    loop {
        match poll(&mut polled, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            r => break r.call("poll", || format!("{} descriptors", polled.len())).map(drop)?,
        };
    }
    let ready = |i: usize| polled.get(i).is_some_and(|p| !p.revents().is_empty());
    Ok((std::array::from_fn(ready), ready(N)))
}

/// As poll(2) takes it.
pub fn timespec(time: Duration) -> Timespec {
    let tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: i64::from(time.subsec_nanos()) }
}

fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Timespec>) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        match poll(&mut polled, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            r => break r.call("poll", || format!("{N} descriptors")).map(drop)?,
        };
    }
    Ok(polled.map(|p| !p.revents().is_empty()))
}
