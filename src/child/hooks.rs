//! The hooks that the child waits for, and those that it runs itself.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::Child;
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::run::hooks::{self, Watch};
use crate::run::sync::{self, FromChild, ToChild};
use crate::sys::{Call, process};

impl Child<'_> {
    /// Has the parent run its hooks. Its end is ours.
    pub fn runtime_hooks(&mut self) -> Result<()> {
        let report = || sync::report(self.socket()?, &FromChild::Hooks).doing("ask for the hooks of the runtime");
        faults::message("child", "hooks", report)?;
        loop {
            match sync::hear(self.socket()?.as_fd()).doing("wait for the hooks of the runtime")? {
                Some(ToChild::Hooked) => return faults::at("child", "after-hooked"),
                Some(ToChild::Filter(bpf, flags)) => self.filter = Some((bpf, flags)),
                Some(ToChild::Placed | ToChild::Mapped) => {}
                Some(ToChild::Go(_)) => return Err(Error::new("the parent said go before the hooks had run")),
                None => process::exit_now(1),
            }
        }
    }

    /// createContainer (`creating`) before the root is changed, startContainer (`created`) after `start`.
    pub fn hooks(&mut self, status: &str) -> Result<()> {
        let Some(all) = &self.in_.plan.hooks else { return Err(Error::new("there are no hooks")) };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        if status == "creating" {
            let dir = hooks::bundle(all)?;
            // If the parent ends, so do the hook and we.
            let watch = Watch::Parent(self.socket()?.as_fd());
            return hooks::run(all, &all.create_container, pid, status, &dir, watch);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(".", flags, Mode::empty()).call("open", || "\".\"".into());
        hooks::run(all, &all.start_container, pid, status, &dir.doing("open the working directory")?, Watch::None)
    }
}
