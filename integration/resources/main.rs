//! Resources and the systemd driver, in a virtual machine with systemd and every controller that its kernel has
//! (integration/uml, integration/qemu; `integration/test` runs it there). Each kernel has other controllers, so where one
//! is missing the tests want the error that says so: none of them passes by doing nothing.
//!
//! ```text
//! machine.rs    what they share: the runtimes side by side, the files of a cgroup, units
//! table.rs      field × value → file × content, by both drivers, beside runc and crun;  cases.rs  the table
//! bites.rs      a process tree that breaks each limit
//! update.rs     new limits, all or none, saved
//! processes.rs  pause, ps, events, kill and delete where the container has cgroups of its own
//! units.rs      the systemd driver: units, slices, properties
//! bus.rs        a bus that is absent, refuses or is silent; a runtime that was killed
//! reload.rs     daemon-reload and daemon-reexec change nothing
//! ```
//! They have the machine for themselves, one after the other (`--test-threads 1`): several change its state.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

#[path = "../../tests/bed/mod.rs"]
mod bed;
mod bites;
mod bus;
mod cases;
mod machine;
mod processes;
mod reload;
mod table;
mod units;
mod update;
