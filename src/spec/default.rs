//! What `tare spec` writes: runc's example configuration, in runc's order of keys and with its tabs.

use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::read;
use crate::error::{Error, Result};

/// The text, with a mark where a rootless container or a seccomp profile makes a difference.
const TEMPLATE: &str = include_str!("default.json.in");

/// Who a rootless container belongs to: its root is mapped to these.
pub struct Rootless {
    /// The caller's effective user id.
    pub uid: u32,
    /// The caller's effective group id.
    pub gid: u32,
}

/// The default config.json, ready to be written. `seccomp` is the text of a `linux.seccomp` object.
pub fn default_config(rootless: Option<Rootless>, seccomp: Option<&str>) -> Result<String> {
    let seccomp = seccomp.map(profile).transpose()?.unwrap_or_default();
    let text = TEMPLATE.replace("@SECCOMP@", &seccomp);
    let marks = match rootless {
        None => [
            ("@PTS_GROUP@", ",\n\t\t\t\t\"gid=5\"".to_owned()),
            ("@SYS@", "\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\",\n\t\t\t\"options\": [".to_owned()),
            ("@OWNER@", RESOURCES.to_owned()),
            ("@NETWORK@", "{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n\t\t\t".to_owned()),
            ("@USER@", String::new()),
        ],
        Some(Rootless { uid, gid }) => [
            // Group 5 (tty) is not mapped.
            ("@PTS_GROUP@", String::new()),
            // Who does not own the network namespace may not mount a sysfs.
            (
                "@SYS@",
                "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",".to_owned(),
            ),
            ("@OWNER@", mapping("uidMappings", uid) + ",\n\t\t" + &mapping("gidMappings", gid)),
            // A network that nobody can connect is of no use; the host's is shared.
            ("@NETWORK@", String::new()),
            ("@USER@", ",\n\t\t\t{\n\t\t\t\t\"type\": \"user\"\n\t\t\t}".to_owned()),
        ],
    };
    Ok(marks.iter().fold(text, |text, (mark, with)| text.replace(mark, with)))
}

const RESOURCES: &str = "\"resources\": {
\t\t\t\"devices\": [
\t\t\t\t{
\t\t\t\t\t\"allow\": false,
\t\t\t\t\t\"access\": \"rwm\"
\t\t\t\t}
\t\t\t]
\t\t}";

fn mapping(name: &str, host: u32) -> String {
    format!(
        "\"{name}\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {host},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t]"
    )
}

/// A seccomp profile as a member of `linux`, indented like the rest. Through the type, so that a profile that could
/// not be run is not written.
fn profile(text: &str) -> Result<String> {
    let seccomp: LinuxSeccomp = read(text)?;
    let mut json = Vec::new();
    let mut out = Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"\t"));
    seccomp.serialize(&mut out).map_err(|e| Error::new(format!("seccomp profile: {e}")))?;
    // No string can hold a bare line feed in JSON, so all of these are between tokens.
    Ok(format!("\n\t\t\"seccomp\": {},", String::from_utf8_lossy(&json).replace('\n', "\n\t\t")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{check, parse};

    const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]}"#;

    #[test]
    fn it_can_be_run() {
        for seccomp in [None, Some(PROFILE)] {
            let text = default_config(None, seccomp).unwrap();
            let mut log = Vec::new();
            let spec = parse(&text, &mut log).unwrap();
            check(&spec, &mut log).unwrap();
            assert!(log.is_empty(), "{log:?}");
            assert_eq!(spec.linux().as_ref().unwrap().seccomp().is_some(), seccomp.is_some());
            assert!(text.ends_with("}\n") && !text.contains('@') && !text.contains("  "), "{text}");
        }
    }

    #[test]
    fn rootless() {
        let text = default_config(Some(Rootless { uid: 1000, gid: 100 }), Some(PROFILE)).unwrap();
        assert!(!text.contains('@') && !text.contains("gid=5") && !text.contains("network"), "{text}");
        let mut log = Vec::new();
        let spec = parse(&text, &mut log).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 100);
        assert!(linux.resources().is_none());
        check(&spec, &mut log).unwrap();
    }

    /// The marks are put in between the lines: after them the text must be as a JSON printer would print it.
    #[test]
    fn well_formed() {
        for rootless in [None, Some(Rootless { uid: 1, gid: 2 })] {
            let text = default_config(rootless, Some(PROFILE)).unwrap();
            let mut depth = 0;
            for line in text.lines() {
                let trimmed = line.trim_start_matches('\t');
                depth -= usize::from(trimmed.starts_with(['}', ']']));
                assert_eq!(line.len() - trimmed.len(), depth, "{line:?} of\n{text}");
                depth += usize::from(trimmed.ends_with(['{', '[']));
            }
            assert_eq!(depth, 0);
        }
    }

    #[test]
    fn a_bad_profile() {
        let error = default_config(None, Some(r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#)).unwrap_err().to_string();
        assert!(error.starts_with("defaultAction: unknown variant"), "{error}");
    }
}
