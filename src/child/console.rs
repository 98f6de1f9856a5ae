//! The container's terminal: a pty of its own devpts, whose slave is /dev/console and stdio, and whose master goes to whoever
//! asked for it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::pty::OpenptFlags;

use super::Child;
use crate::error::{Doing, Error, Result};
use crate::sys::mount;
use crate::sys::{Call, root, socket};

/// Linux's devices.txt: /dev/ptmx, and the eight majors of the slaves.
const PTMX: (u32, u32) = (5, 2);
const SLAVES: std::ops::RangeInclusive<u32> = 136..=143;
/// include/uapi/linux/magic.h
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Makes it the controlling terminal of this session.
pub fn take(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).call("ioctl", || "TIOCSCTTY".into()).doing("take the terminal")
}

impl Child<'_> {
    /// Makes the terminal and becomes the leader of its session. `size` is rows and columns; `bind` puts it on /dev/console.
    ///
    /// The slave comes from the master itself (TIOCGPTPEER), never by its name, which the image could have put elsewhere
    /// meanwhile (CVE-2025-52565).
    pub fn console(&mut self, size: Option<(u16, u16)>, bind: bool) -> Result<()> {
        let master = self.open_ptmx()?;
        rustix::pty::unlockpt(&master).call("ioctl", || "TIOCSPTLCK".into()).doing("unlock the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags);
        let slave = slave.call("ioctl", || "TIOCGPTPEER".into()).doing("open the terminal")?;
        self.check_slave(&slave)?;
        if let Some((rows, columns)) = size {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let set = rustix::termios::tcsetwinsize(&master, size);
            set.call("ioctl", || "TIOCSWINSZ".into()).doing("set the size of the terminal")?;
        }
        if bind {
            let target = Path::new("/dev/console");
            let tree = mount::open_tree(&slave, Path::new(""), false, false).doing("take the terminal as a mount")?;
            let onto = root::make_file(&self.in_.rootfs, target).doing("make /dev/console")?;
            mount::move_mount(&tree, &onto, target).doing("put the terminal on /dev/console")?;
        }
        let name = rustix::pty::ptsname(&master, Vec::new()).call("ioctl", || "TIOCGPTN".into());
        let name = name.doing("ask for the name of the terminal")?;
        // Whoever gets it may read it as he likes.
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR)
            .call("fcntl", || "F_SETFL".into())
            .doing("hand the terminal over")?;
        let Some(receiver) = self.in_.console.take() else { return Err(Error::new("nobody takes the terminal")) };
        socket::send_fd(&receiver, name.to_bytes(), master.as_fd()).doing("hand the terminal over")?;
        // Else the one that is made for the pid namespace takes it: with the end of a session's leader it would be hung up.
        if !self.enters {
            take(&slave)?;
        }
        for to in [rustix::stdio::dup2_stdin, rustix::stdio::dup2_stdout, rustix::stdio::dup2_stderr] {
            to(&slave).call("dup2", || "the terminal".into()).doing("put the terminal on stdio")?;
        }
        Ok(())
    }

    /// Opens the container's multiplexer. What the image has in its place must not block or lead elsewhere.
    fn open_ptmx(&self) -> Result<OwnedFd> {
        let doing = "open the container's /dev/ptmx";
        let hint = "a terminal needs a mount of devpts on /dev/pts";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let master = root::open(&self.in_.rootfs, Path::new("/dev/ptmx"), flags);
        let master = master.doing(doing).map_err(|e| e.hint(hint))?;
        let stat = rustix::fs::fstat(&master).call("fstat", || "\"/dev/ptmx\"".into()).doing(doing)?;
        let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || number != PTMX {
            return Err(Error::new("the container's /dev/ptmx is not the device 5:2").hint(hint));
        }
        Ok(master)
    }

    /// It must be a terminal, and if there is a devpts on the container's /dev/pts, one of that.
    fn check_slave(&self, slave: &OwnedFd) -> Result<()> {
        let doing = "check the terminal";
        let stat = rustix::fs::fstat(slave).call("fstat", String::new).doing(doing)?;
        let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !device || !SLAVES.contains(&rustix::fs::major(stat.st_rdev)) {
            return Err(Error::new("the container's /dev/ptmx has given something that is no terminal"));
        }
        let Ok(pts) = root::open(&self.in_.rootfs, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY) else {
            return Ok(());
        };
        let devpts = rustix::fs::fstatfs(&pts).is_ok_and(|fs| fs.f_type as i64 == DEVPTS_SUPER_MAGIC);
        let same = rustix::fs::fstat(&pts).is_ok_and(|s| s.st_dev == stat.st_dev);
        if devpts && !same {
            return Err(Error::new("the container's /dev/ptmx is that of another devpts than /dev/pts"));
        }
        Ok(())
    }
}
