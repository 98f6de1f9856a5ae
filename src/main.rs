//! tare: a low-level OCI container runtime.
//!
//! `cli` (argv) → `spec` (config.json, checked) → `plan` (what will be done) → `run` (the parent) and `child` (between
//! clone3 and execve) → `state` (on disk). Only `sys` has unsafe code.

#![cfg_attr(test, allow(clippy::disallowed_methods))] // they are for the shipped code

mod cgroup;
mod child;
mod cli;
mod cmd;
mod error;
mod faults;
mod host;
mod log;
mod plan;
mod run;
mod seal;
mod seccomp;
mod spec;
mod state;
mod sys;

use std::process::ExitCode;

use clap::Parser;

use crate::log::{Level, Log};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let command = args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| cli::SEALED.contains(a));
    let sealed = match command {
        // Before anything else, and before the container's process or hooks could get hold of the executable.
        Some(_) => seal::seal().and_then(|()| nondumpable()),
        None => Ok(()),
    };
    let args = cli::long_flags(args);
    if cli::asks_for_version(&args) {
        println!("{}", cmd::version());
        return ExitCode::SUCCESS;
    }
    let cli = match cli::Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            if !e.use_stderr() {
                return ExitCode::SUCCESS; // help was asked for
            }
            if let Some(global) = cli::global_alone(args)
                && let Ok(mut log) = Log::open(global.log.as_deref(), global.log_format, Level::Error)
            {
                let text = e.to_string();
                // Without the usage that follows.
                let mistake = text.split("\n\n").next().unwrap_or_default();
                log.record(mistake.trim_start_matches("error: "));
            }
            return ExitCode::FAILURE;
        }
    };
    let level = if cli.global.debug { Level::Debug } else { cli.global.log_level };
    let mut log = match Log::open(cli.global.log.as_deref(), cli.global.log_format, level) {
        Ok(log) => log,
        Err(e) => {
            Log::default().fail(&e);
            return ExitCode::FAILURE;
        }
    };
    let failure = cli.command.failure();
    match sealed.and_then(|()| cmd::run(cli, &mut log)) {
        Ok(status) => {
            log.succeed();
            ExitCode::from(status as u8)
        }
        Err(e) => {
            log.fail(&e);
            ExitCode::from(failure)
        }
    }
}

/// The container's process must not be traced, nor its descriptors opened, before it is the container's: it inherits this.
fn nondumpable() -> error::Result<()> {
    use error::Doing;
    sys::process::set_nondumpable().doing("become non-dumpable")
}
