//! tare: a low-level OCI container runtime.

mod cgroup;
mod error;
mod sys;

fn main() {
    println!("tare version {}", env!("CARGO_PKG_VERSION"));
}
