//! `tare exec --detach` as shims and conmon use it: they are subreapers, which is a property of a whole process, so this is one of
//! its own.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use bed::{Bed, cgroup_of};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};
use serde_json::json;

#[test]
fn a_detached_process_is_a_child_of_the_caller() {
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut bed = Bed::new("exec-detached");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    let init = bed.detached(&[]);
    let listener = UnixListener::bind(bed.dir.join("socket")).unwrap();
    let options = ["-d", "--pid-file=exec.pid", "--pidfd-socket=socket"];
    let fifo = bed.dir.join("rootfs/fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (code, _, err) = bed.exec(&options, &["sh", "-c", "read x < /fifo; exit $x"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let pid = fs::read_to_string(bed.dir.join("exec.pid")).unwrap();
    assert_eq!(pid, pid.parse::<u32>().unwrap().to_string(), "digits, and no newline");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("\nPPid:\t{}\n", std::process::id())), "{status}");
    assert!(fs::read_to_string(cgroup_of(&bed.id()).join("cgroup.procs")).unwrap().lines().any(|line| line == pid));
    let pidfd = received(&listener);
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.lines().any(|l| l == format!("Pid:\t{pid}")), "{info}");
    // It lives on until it ends by itself, and its status is there for who waits.
    fs::write(&fifo, "9\n").unwrap();
    assert_eq!(reap(&pid).exit_status(), Some(9));
    assert_eq!(bed.status(), "running");
    // One that fails is reaped by the runtime: nothing is left for the caller.
    let (code, ..) = bed.exec(&["-d", "--pid-file=none.pid"], &["missing"]);
    assert_eq!((code, bed.dir.join("none.pid").exists()), (255, false));
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    assert_eq!(children.trim(), init.to_string());
    // With the container it ends, too, and whoever is its parent must take it before init can go.
    let (code, ..) = bed.exec(&["-d", "--pid-file=exec.pid"], &["sleep", "1000"]);
    assert_eq!(code, 0);
    let killed = bed.tare(&["kill", &bed.id(), "KILL"]);
    assert!(killed.status.success(), "{killed:?}");
    let pid = fs::read_to_string(bed.dir.join("exec.pid")).unwrap();
    assert_eq!(reap(&pid).terminating_signal(), Some(9));
    assert_eq!(reap(&init.to_string()).terminating_signal(), Some(9));
    bed::running::forced(&bed, "detached");
}

fn reap(pid: &str) -> rustix::process::WaitStatus {
    waitpid(Pid::from_raw(pid.parse().unwrap()), WaitOptions::empty()).unwrap().unwrap().1
}

fn received(listener: &UnixListener) -> OwnedFd {
    let (peer, _) = listener.accept().unwrap();
    let (mut data, mut space) = ([0; 64], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffer = &mut [std::io::IoSliceMut::new(&mut data)];
    assert!(recvmsg(&peer, buffer, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes > 0);
    let fds = |m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.collect() } else { Vec::new() };
    let mut fds: Vec<OwnedFd> = ancillary.drain().flat_map(fds).collect();
    assert_eq!(fds.len(), 1);
    fds.remove(0)
}
