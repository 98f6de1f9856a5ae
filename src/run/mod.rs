//! The parent. Reads top to bottom: [`create::create`] → [`prepare`] (before clone3) → [`launch`] (clone3) → [`sync`]
//! (the protocol) → the state is written; [`foreground`] for `run`.

pub mod antechamber;
pub mod cleanup;
pub mod console;
pub mod create;
pub mod exec;
pub mod foreground;
pub mod gate;
mod hints;
pub mod hooks;
mod launch;
mod prepare;
pub mod rootless;
mod spawn;
pub mod start;
pub mod sync;
pub mod unit;

pub use hints::explain;
