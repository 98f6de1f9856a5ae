//! GVariant's text form (docs.gtk.org/glib/gvariant-text-format.html), as far as properties of a unit need it: strings,
//! booleans, whole numbers with or without their type, and lists of strings.

use super::properties::Value;

/// The value, if the text is one.
pub fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(list) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return strings(list).map(Value::Strs);
    }
    if text.starts_with(['\'', '"']) {
        let (value, rest) = string(text)?;
        return rest.trim().is_empty().then_some(Value::Str(value));
    }
    match text.split_once(' ') {
        None => text.parse().ok().map(Value::I32), // a number without a type is an int32
        Some((kind, number)) => {
            let number = number.trim();
            match kind {
                "int32" => number.parse().ok().map(Value::I32),
                "uint32" => number.parse().ok().map(Value::U32),
                "int64" => number.parse().ok().map(Value::I64),
                "uint64" => number.parse().ok().map(Value::U64),
                "boolean" => number.parse().ok().map(Value::Bool),
                "string" => string(number).filter(|(_, rest)| rest.is_empty()).map(|(s, _)| Value::Str(s)),
                _ => None,
            }
        }
    }
}

/// A quoted string, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                c @ ('\\' | '\'' | '"') => value.push(c),
                _ => return None,
            },
            c => value.push(c),
        }
    }
    None
}

fn strings(mut list: &str) -> Option<Vec<String>> {
    let mut values = Vec::new();
    list = list.trim();
    while !list.is_empty() {
        let (value, rest) = string(list)?;
        values.push(value);
        list = rest.trim();
        if !list.is_empty() {
            list = list.strip_prefix(',')?.trim();
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("'a \\'b\\''", Value::Str("a 'b'".into())),
            ("\"x\"", Value::Str("x".into())),
            ("15", Value::I32(15)),
            ("-1", Value::I32(-1)),
            ("uint32 7", Value::U32(7)),
            ("int64 -7", Value::I64(-7)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("['a', 'b']", Value::Strs(vec!["a".into(), "b".into()])),
            ("[]", Value::Strs(vec![])),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["", "x", "'a", "'a' b", "uint32 -1", "99999999999", "['a' 'b']", "byte 1", "1.5"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
