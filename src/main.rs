//! tare: a low-level OCI container runtime.

mod error;
mod seccomp;
mod sys;

fn main() {
    println!("tare version {}", env!("CARGO_PKG_VERSION"));
}
