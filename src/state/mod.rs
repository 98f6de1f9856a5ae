//! What is kept of a container on disk, and what state it is in.

mod status;
mod store;

pub use status::{Action, PAUSED, Status};
pub use store::{CgroupState, Container, START, State, Store, VERSION, check_id, deleted, remove_start};
