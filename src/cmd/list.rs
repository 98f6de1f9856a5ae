//! `list`.

use super::state::{describe, look};
use crate::cli::{List, ListFormat};
use crate::error::{Error, Result};
use crate::state::Store;

/// `tare list`. Directories of other runtimes in the same root are passed over; broken ones of ours are shown.
pub fn list(args: &List, store: &Store) -> Result<i32> {
    let ids = store.ids()?;
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    let mut objects = Vec::new();
    for id in ids {
        let Ok(container) = store.open(&id) else { continue }; // deleted meanwhile
        match look(&container) {
            Ok(Some((state, status))) => {
                let mut object = describe(&state, status);
                if object.owner.is_empty() {
                    object.owner = "root".into();
                }
                let (id, bundle) = (object.id.to_owned(), object.bundle.display().to_string());
                let (pid, created) = (object.pid.to_string(), object.created.to_owned());
                rows.push([id, pid, object.status.clone(), bundle, created, object.owner.clone()]);
                objects.push(serde_json::to_string(&object).map_err(|e| Error::new(e.to_string()))?);
            }
            Ok(None) => {} // being made just now, or another runtime's
            Err(e) => {
                let why = e.to_string().lines().next().unwrap_or_default().to_owned();
                rows.push([id, "0".into(), "unknown".into(), why, String::new(), String::new()]);
            }
        }
    }
    let text = match args.format {
        _ if args.quiet => rows.iter().skip(1).map(|r| r[0].as_str()).collect::<Vec<_>>().join("\n"),
        // Go prints a list without entries like this, and so go the programs that parse it.
        ListFormat::Json if objects.is_empty() => "null".into(),
        ListFormat::Json => format!("[{}]", objects.join(",")),
        ListFormat::Table => table(&rows),
    };
    if !text.is_empty() {
        super::print(&text)?;
    }
    Ok(0)
}

/// Columns three spaces apart, at least twelve wide, as runc's.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let line = |row: &[String; N]| {
        let cell = |(i, text): (usize, &String)| {
            if i == N - 1 { text.clone() } else { format!("{text:<w$}", w = width(i)) }
        };
        row.iter().enumerate().map(cell).collect::<String>()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
