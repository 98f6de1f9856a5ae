//! The hooks that the child waits for, and those that it runs itself.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::Child;
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::plan::Hook;
use crate::run::hooks::{self, Place, Watch};
use crate::run::sync::{self, FromChild, ToChild};
use crate::sys::Call;

impl Child<'_> {
    /// Has the parent run its hooks. Its end is ours.
    pub fn runtime_hooks(&mut self) -> Result<()> {
        let report = || sync::report(self.socket()?, &FromChild::Hooks).doing("ask for the hooks of the runtime");
        faults::message("child", "hooks", report)?;
        loop {
            match self.hear()? {
                ToChild::Hooked => return faults::at("child", "after-hooked"),
                ToChild::Go(_) => return Err(Error::new("the parent said go before the hooks had run")),
                _ => {}
            }
        }
    }

    /// createContainer (`creating`) before the root is changed, startContainer (`created`) after `start`.
    pub fn hooks(&mut self, status: &str) -> Result<()> {
        let Some(all) = &self.in_.plan.hooks else { return Err(Error::new("there are no hooks")) };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        if status == "creating" {
            let place = hooks::bundle(all)?;
            // If the parent ends, so do the hook and we.
            let watch = Watch::Parent(self.socket()?.as_fd());
            return hooks::run(all, &all.create_container, pid, status, &place, watch);
        }
        // These are programs of the image: the runtime's environment is none of their business.
        let inside = |hook: &Hook| Hook { env: hook.env.clone().or_else(|| Some(self.env.clone())), ..hook.clone() };
        let list: Vec<_> = all.start_container.iter().map(inside).collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(".", flags, Mode::empty()).call("open", || "\".\"".into());
        let place =
            Place { dir: dir.doing("open the working directory")?, files: std::mem::take(&mut self.in_.hook_files) };
        hooks::run(all, &list, pid, status, &place, Watch::None)
    }
}
