//! The one error type. Three layers: [`SysError`] (made only in `sys`, prints as strace would), [`Error`] (which field
//! of config.json, what was being done, what may help), and `main`, which prints the chain once.

use std::borrow::Cow;
use std::fmt;

use crate::sys::SysError;

/// What an error or a step of the plan comes from: a field of config.json, an option, a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The field as a path: `mounts[3]`, `linux.maskedPaths[0]`, `--pid-file`.
    pub field: Cow<'static, str>,
    /// The object that the field names, for people: the mount's destination, the masked path.
    pub object: Option<String>,
}

impl Origin {
    /// A field without an object.
    pub fn field(field: impl Into<Cow<'static, str>>) -> Self {
        Origin { field: field.into(), object: None }
    }

    /// A field and the object it names.
    pub fn new(field: impl Into<Cow<'static, str>>, object: impl Into<String>) -> Self {
        Origin { field: field.into(), object: Some(object.into()) }
    }

    /// Engines read "no such file or directory" and "permission denied" as a word about the user's command or mount
    /// (Docker's 127 and 126), so the errno's text is printed for these fields only; others print its name.
    fn is_the_users(&self) -> bool {
        ["process.args", "process.cwd", "mounts", "root"].iter().any(|f| self.field.starts_with(f))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.field, ENOUGH))?;
        match &self.object {
            Some(object) => write!(f, " ({})", one_line(object, ENOUGH)),
            None => Ok(()),
        }
    }
}

/// Characters of a path in a message; a longer one is no help to anybody.
const ENOUGH: usize = 4096;

/// A text of config.json or of an image in a message: without control characters, which could fake another line, and not
/// much longer than `most` characters. What is left out is in the middle: the reason comes last.
pub fn one_line(text: &str, most: usize) -> String {
    let count = text.chars().count();
    let left_out = if count > most { most - most / 4..count - most / 4 } else { 0..0 };
    let mut line = String::with_capacity(text.len().min(most));
    for (i, c) in text.chars().enumerate() {
        if left_out.contains(&i) {
            line.push_str(if i == left_out.start { "…" } else { "" });
        } else if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A failure, with its cause: `mounts[3] (/data): attach bind mount: move_mount(…): EPERM (operation not permitted)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The field of config.json (or the option) that asked for it.
    pub origin: Option<Origin>,
    /// What was being done, or what is wrong.
    pub doing: Cow<'static, str>,
    /// The system call that failed.
    pub source: Option<SysError>,
    /// What may help.
    pub hint: Option<Cow<'static, str>>,
    /// What failed while cleaning up after this error: attached, never in its place.
    pub also: Vec<Error>,
}

/// The result of everything that can fail outside `sys`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that is no system call's.
    pub fn new(doing: impl Into<Cow<'static, str>>) -> Self {
        Error { origin: None, doing: doing.into(), source: None, hint: None, also: Vec::new() }
    }

    /// A failed system call and what it was for.
    pub fn sys(doing: impl Into<Cow<'static, str>>, source: SysError) -> Self {
        Error { source: Some(source), ..Error::new(doing) }
    }

    /// Names the field, unless an inner layer named it already.
    pub fn at(mut self, origin: Origin) -> Self {
        self.origin.get_or_insert(origin);
        self
    }

    /// Names the field by its path, unless an inner layer named it already.
    pub fn field(self, field: impl Into<Cow<'static, str>>) -> Self {
        self.at(Origin::field(field))
    }

    /// Adds a hint, unless there is one.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// Attaches a failure of the cleaning up.
    pub fn and(mut self, cleanup: Result<()>) -> Self {
        self.also.extend(cleanup.err());
        self
    }

    /// The errno of the system call, if one failed.
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        self.source.as_ref().map(|s| s.errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        f.write_str(&one_line(&self.doing, ENOUGH))?;
        if let Some(source) = &self.source {
            let users = self.origin.as_ref().is_some_and(Origin::is_the_users);
            if users { write!(f, ": {source}")? } else { write!(f, ": {source:#}")? }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        for also in &self.also {
            write!(f, "\n  and while cleaning up: {also}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Turns a system call's error into an [`Error`] that says what it was for.
pub trait Doing<T> {
    /// Says what was being done.
    fn doing(self, doing: impl Into<Cow<'static, str>>) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, SysError> {
    fn doing(self, doing: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|e| Error::sys(doing, e))
    }
}
