//! features
pub fn features() {}
