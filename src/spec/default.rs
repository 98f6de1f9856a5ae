//! What `spec` writes.
pub struct Rootless;
pub fn default_config() {}
