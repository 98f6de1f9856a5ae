//! tare: a low-level OCI container runtime.

mod error;
mod spec;
mod sys;

fn main() {
    println!("tare version {}", env!("CARGO_PKG_VERSION"));
}
