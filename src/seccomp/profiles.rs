//! The profiles that come with tare: `seccomp-profiles/`, for `tare spec --seccomp NAME`.

/// The names that [`builtin`] knows.
pub const NAMES: [&str; 3] = ["default", "strict", "log"];

/// A profile by its name, as the JSON text of a `linux.seccomp` object; `None` for other names than [`NAMES`].
pub fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "default" => Some(include_str!("../../seccomp-profiles/default.json")),
        "strict" => Some(include_str!("../../seccomp-profiles/strict.json")),
        "log" => Some(include_str!("../../seccomp-profiles/log.json")),
        _ => None,
    }
}
