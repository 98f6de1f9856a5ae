//! Where in a JSON text a place is, as the path of a field. The parser gives line and column of an error only; a crate that
//! follows the path while it parses (serde_path_to_error) makes the parser's code once more for each type: 0.8 MB.

/// An object or an array on the way, and where in it we are.
enum Level {
    Object(String),
    Array(usize),
}

/// The path of the value at this place (both count from 1, the column in bytes): `mounts[3].options`. Empty for the whole.
pub fn at(text: &str, line: usize, column: usize) -> String {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (start + column).min(text.len());
    let mut bytes = text.bytes().take(end).enumerate();
    let mut levels: Vec<Level> = Vec::new();
    let mut string = String::new();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'{' => levels.push(Level::Object(String::new())),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => drop(levels.pop()),
            b'"' => {
                let mut last = i;
                while let Some((i, byte)) = bytes.next() {
                    last = i;
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
                string = text.get(i + 1..last).unwrap_or_default().to_owned();
            }
            b':' => {
                if let Some(Level::Object(key)) = levels.last_mut() {
                    *key = std::mem::take(&mut string);
                }
            }
            b',' => match levels.last_mut() {
                Some(Level::Array(n)) => *n += 1,
                Some(Level::Object(key)) => key.clear(),
                None => {}
            },
            _ => {}
        }
    }
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Array(n) => path += &format!("[{n}]"),
            Level::Object(key) if key.is_empty() => {}
            Level::Object(key) if path.is_empty() => path = key,
            Level::Object(key) => path += &format!(".{key}"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::at;

    #[test]
    fn the_path_at_a_place() {
        let text = "{\n \"a\": {\"b\\\"c\": [1, {\"d\": \"x}]\"}, 3]},\n \"e\": 5\n}";
        let find = |what: &str, after: usize| {
            let offset = text.find(what).unwrap() + after;
            let line = text[..offset].matches('\n').count() + 1;
            let column = offset - text[..offset].rfind('\n').map_or(0, |n| n + 1);
            at(text, line, column)
        };
        for (what, after, path) in [
            ("1,", 1, "a.b\\\"c[0]"),
            ("x}", 1, "a.b\\\"c[1].d"),
            ("x}]\"", 4, "a.b\\\"c[1].d"),
            ("3]", 1, "a.b\\\"c[2]"),
            ("3]}", 3, "a"),
            ("5", 1, "e"),
            ("5\n}", 3, ""),
        ] {
            assert_eq!(find(what, after), path, "{what}");
        }
        assert_eq!(at("", 0, 0), "");
        assert_eq!(at("[", 9, 9), "[0]");
    }
}
