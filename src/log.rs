//! The log: a file for the engine, standard error for people. On success nothing is written to standard error, since
//! engines parse it together with standard output. A failing create leaves exactly one line in a fresh log (Podman parses
//! it as one object), so warnings are kept until the end, and written after a success only.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use clap::ValueEnum;

use crate::error::{Doing, Error, Result};
use crate::sys::Call;

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// One object a line: `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// `--log-level`; what is at least as grave is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// What is of interest.
    Info,
    /// What config.json asks for in vain.
    #[default]
    #[value(alias = "warn")]
    Warning,
    /// What ends a command.
    #[value(aliases = ["fatal", "panic"])]
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Where messages go.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    format: Format,
    level: Level,
    later: Vec<String>,
}

impl Log {
    /// Opens the log before any other work, so that no failure is silent; without a file there is none.
    pub fn open(path: Option<&Path>, format: Format, level: Level) -> Result<Log> {
        let open = |path: &Path| {
            let file = File::options().append(true).create(true).open(path).call("open", || format!("{path:?}"));
            file.doing("open the log").map_err(|e| e.field("--log"))
        };
        let file = path.filter(|p| !p.as_os_str().is_empty()).map(open).transpose()?;
        Ok(Log { file, format, level, later: Vec::new() })
    }

    /// A line that only `--debug` shows, at once.
    pub fn debug(&mut self, text: impl AsRef<str>) {
        self.write(Level::Debug, text.as_ref());
    }

    /// Warnings, written after a success.
    pub fn warnings(&mut self, texts: Vec<String>) {
        self.later.extend(texts);
    }

    /// The end of a command that succeeded.
    pub fn succeed(&mut self) {
        for text in std::mem::take(&mut self.later) {
            self.write(Level::Warning, &text);
        }
    }

    /// A mistake that people have been told of, for the engine.
    pub fn record(&mut self, text: &str) {
        self.write(Level::Error, text.trim_end());
    }

    /// The end of a command that failed: one line for the engine, one message for people.
    pub fn fail(&mut self, error: &Error) {
        let text = error.to_string();
        self.record(&text);
        if self.file.is_none() && self.format == Format::Json {
            eprint!("{}", line(Format::Json, Level::Error, &text));
        } else {
            eprintln!("tare: {text}");
        }
    }

    /// One write(2) for a line: several runtimes share the file.
    fn write(&mut self, level: Level, text: &str) {
        if level < self.level {
            return;
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line(self.format, level, text).as_bytes());
        } else if level == Level::Debug {
            eprint!("{}", line(self.format, level, text));
        }
    }
}

fn line(format: Format, level: Level, text: &str) -> String {
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    match format {
        Format::Json => {
            let line = serde_json::json!({ "level": level.word(), "msg": text, "time": time.to_string() });
            format!("{line}\n")
        }
        Format::Text => format!("time=\"{time}\" level={} msg={text:?}\n", level.word()),
    }
}
