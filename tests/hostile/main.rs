//! What an image, a volume and a neighbour can do against the runtime: every advisory of runc, crun and youki that
//! applies, as a test that fails on a runtime that has the bug. Each negative test has a control beside it: the same
//! thing done naively, which succeeds, so that a test which cannot see the attack fails.
//!
//! CVE-2025-23266 is in tests/hooks.rs, with all else that hooks are given.
//!
//! They need root, cgroup v2, busybox-static, a C compiler and readelf, and say so where one is missing.
//!
//! What cannot be tried yet, to be brought with what makes it possible:
//!
//! | with | case |
//! |---|---|
//! | update, checkpoint | a line each in `harness::WAYS` |
//! | checkpoint | CVE-2026-119101, CVE-2026-115520: links and `]:` in names at restore |
//! | labels | CVE-2019-16884, CVE-2025-52881: a fake `attr/exec` |
//! | user namespaces | CVE-2023-25809 for rootless; CVE-2021-43784 by uid mappings; the whole matrix in a user namespace |
//! | systemd | CVE-2024-3154: `org.systemd.property.*` (announced as unsafe already) |

#![allow(clippy::disallowed_methods)] // they are for the shipped code

#[path = "../bed/mod.rs"]
mod bed;
mod canary;
mod exec;
mod harness;
mod host;
mod matrix;
mod mounts;
mod process;
mod race;
mod terminal;
