//! The fields of runtime-spec 1.3, as a table. oci-spec's type drops what it does not know, and takes an array where an
//! object belongs (`"linux": []` would be a container without a namespace): this finds both in the text.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::{bad, explain, one_line};
use crate::error::Result;

/// What may stand at a place of config.json.
pub enum Node {
    /// A value without fields of its own: string, number, boolean, list of strings, map of strings. The type has
    /// checked it.
    Leaf,
    /// A field that the type cannot hold: refused unless it is empty, false or zero.
    Lost,
    /// A field for another system: told, and ignored.
    Foreign,
    /// An array of this.
    List(&'static Node),
    /// An object with free keys.
    Map(&'static Node),
    /// An object with these fields.
    Object(&'static [(&'static str, Node)]),
}

use Node::{Foreign, Leaf, List, Lost, Map, Object};

/// The whole file.
pub const CONFIG: Node = Object(&[
    ("ociVersion", Leaf),
    ("process", PROCESS),
    ("root", Object(&[("path", Leaf), ("readonly", Leaf)])),
    ("hostname", Leaf),
    ("domainname", Leaf),
    ("mounts", List(&MOUNT)),
    ("hooks", HOOKS),
    ("annotations", Leaf),
    ("linux", LINUX),
    ("solaris", Foreign),
    ("windows", Foreign),
    ("vm", Leaf),
    ("zos", Foreign),
    ("freebsd", Foreign),
]);

const PROCESS: Node = Object(&[
    ("terminal", Leaf),
    ("consoleSize", Object(&[("height", Leaf), ("width", Leaf)])),
    ("user", Object(&[("uid", Leaf), ("gid", Leaf), ("umask", Leaf), ("additionalGids", Leaf), ("username", Foreign)])),
    ("args", Leaf),
    ("commandLine", Foreign),
    ("env", Leaf),
    ("cwd", Leaf),
    (
        "capabilities",
        Object(&[
            ("bounding", Leaf),
            ("effective", Leaf),
            ("inheritable", Leaf),
            ("permitted", Leaf),
            ("ambient", Leaf),
        ]),
    ),
    ("rlimits", List(&Object(&[("type", Leaf), ("hard", Leaf), ("soft", Leaf)]))),
    ("noNewPrivileges", Leaf),
    ("apparmorProfile", Leaf),
    ("oomScoreAdj", Leaf),
    (
        "scheduler",
        Object(&[
            ("policy", Leaf),
            ("nice", Leaf),
            ("priority", Leaf),
            ("flags", Leaf),
            ("runtime", Leaf),
            ("deadline", Leaf),
            ("period", Leaf),
        ]),
    ),
    ("selinuxLabel", Leaf),
    ("ioPriority", Object(&[("class", Leaf), ("priority", Leaf)])),
    ("execCPUAffinity", Object(&[("initial", Leaf), ("final", Leaf)])),
]);

const MAPPINGS: Node = List(&Object(&[("containerID", Leaf), ("hostID", Leaf), ("size", Leaf)]));

const MOUNT: Node = Object(&[
    ("destination", Leaf),
    ("type", Leaf),
    ("source", Leaf),
    ("options", Leaf),
    ("uidMappings", MAPPINGS),
    ("gidMappings", MAPPINGS),
]);

const HOOK_LIST: Node = List(&Object(&[("path", Leaf), ("args", Leaf), ("env", Leaf), ("timeout", Leaf)]));

const HOOKS: Node = Object(&[
    ("prestart", HOOK_LIST),
    ("createRuntime", HOOK_LIST),
    ("createContainer", HOOK_LIST),
    ("startContainer", HOOK_LIST),
    ("poststart", HOOK_LIST),
    ("poststop", HOOK_LIST),
]);

const LINUX: Node = Object(&[
    ("uidMappings", MAPPINGS),
    ("gidMappings", MAPPINGS),
    ("sysctl", Leaf),
    ("resources", RESOURCES),
    ("cgroupsPath", Leaf),
    ("namespaces", List(&Object(&[("type", Leaf), ("path", Leaf)]))),
    (
        "devices",
        List(&Object(&[
            ("path", Leaf),
            ("type", Leaf),
            ("major", Leaf),
            ("minor", Leaf),
            ("fileMode", Leaf),
            ("uid", Leaf),
            ("gid", Leaf),
        ])),
    ),
    ("netDevices", Map(&Object(&[("name", Leaf)]))),
    ("seccomp", SECCOMP),
    ("rootfsPropagation", Leaf),
    ("maskedPaths", Leaf),
    ("readonlyPaths", Leaf),
    ("mountLabel", Leaf),
    (
        "intelRdt",
        Object(&[
            ("closID", Leaf),
            ("schemata", Leaf),
            ("l3CacheSchema", Leaf),
            ("memBwSchema", Leaf),
            ("enableCMT", Lost),
            ("enableMBM", Lost),
            ("enableMonitoring", Leaf),
        ]),
    ),
    ("memoryPolicy", Object(&[("mode", Leaf), ("nodes", Leaf), ("flags", Leaf)])),
    ("personality", Object(&[("domain", Leaf), ("flags", Leaf)])),
    ("timeOffsets", Map(&Object(&[("secs", Leaf), ("nanosecs", Leaf)]))),
]);

const THROTTLE: Node = List(&Object(&[("major", Leaf), ("minor", Leaf), ("rate", Leaf)]));

const RESOURCES: Node = Object(&[
    ("devices", List(&Object(&[("allow", Leaf), ("type", Leaf), ("major", Leaf), ("minor", Leaf), ("access", Leaf)]))),
    (
        "memory",
        Object(&[
            ("limit", Leaf),
            ("reservation", Leaf),
            ("swap", Leaf),
            ("kernel", Leaf),
            ("kernelTCP", Leaf),
            ("swappiness", Leaf),
            ("disableOOMKiller", Leaf),
            ("useHierarchy", Leaf),
            ("checkBeforeUpdate", Leaf),
        ]),
    ),
    (
        "cpu",
        Object(&[
            ("shares", Leaf),
            ("quota", Leaf),
            ("burst", Leaf),
            ("period", Leaf),
            ("realtimeRuntime", Leaf),
            ("realtimePeriod", Leaf),
            ("cpus", Leaf),
            ("mems", Leaf),
            ("idle", Leaf),
        ]),
    ),
    ("pids", Object(&[("limit", Leaf)])),
    (
        "blockIO",
        Object(&[
            ("weight", Leaf),
            ("leafWeight", Leaf),
            (
                "weightDevice",
                List(&Object(&[("major", Leaf), ("minor", Leaf), ("weight", Leaf), ("leafWeight", Leaf)])),
            ),
            ("throttleReadBpsDevice", THROTTLE),
            ("throttleWriteBpsDevice", THROTTLE),
            ("throttleReadIOPSDevice", THROTTLE),
            ("throttleWriteIOPSDevice", THROTTLE),
        ]),
    ),
    ("hugepageLimits", List(&Object(&[("pageSize", Leaf), ("limit", Leaf)]))),
    ("network", Object(&[("classID", Leaf), ("priorities", List(&Object(&[("name", Leaf), ("priority", Leaf)])))])),
    ("rdma", Map(&Object(&[("hcaHandles", Leaf), ("hcaObjects", Leaf)]))),
    ("unified", Leaf),
]);

const SECCOMP: Node = Object(&[
    ("defaultAction", Leaf),
    ("defaultErrnoRet", Leaf),
    ("architectures", Leaf),
    ("flags", Leaf),
    ("listenerPath", Leaf),
    ("listenerMetadata", Leaf),
    (
        "syscalls",
        List(&Object(&[
            ("names", Leaf),
            ("action", Leaf),
            ("errnoRet", Leaf),
            ("args", List(&Object(&[("index", Leaf), ("value", Leaf), ("valueTwo", Leaf), ("op", Leaf)]))),
        ])),
    ),
]);

/// Unknown fields are told in `log` (the specification wants them ignored, not refused), fields that get lost and
/// arrays in place of objects are refused.
pub fn walk(text: &str, log: &mut Vec<String>) -> Result<()> {
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let walk = Walk { node: Some(&CONFIG), found: &mut found };
    if let Err(error) = walk.deserialize(&mut json).and_then(|()| json.end()) {
        return Err(explain(&found.path, &error, true));
    }
    if let Some(field) = found.lost {
        return Err(bad(field, "not supported yet"));
    }
    log.append(&mut found.ignored);
    Ok(())
}

/// What a walk has found, and where it is.
#[derive(Default)]
struct Found {
    path: String,
    ignored: Vec<String>,
    lost: Option<String>,
}

impl Found {
    /// A line for each field, but not for a million of them.
    fn ignored(&mut self, why: &str) {
        const ENOUGH: usize = 20;
        if self.ignored.len() < ENOUGH {
            self.ignored.push(format!("{}: {why}", one_line(&self.path)));
        }
    }
}

/// One step of the walk; without a node it is inside something that is ignored, where only the depth is watched.
struct Walk<'a> {
    node: Option<&'static Node>,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn below(&mut self, node: Option<&'static Node>) -> Walk<'_> {
        Walk { node, found: self.found }
    }

    /// A value that is not walked into; whether it asks for anything.
    fn value<E: de::Error>(self, is_set: bool, what: Unexpected<'_>) -> Result<(), E> {
        match self.node {
            Some(Object(_) | Map(_) | List(_)) => return Err(E::invalid_type(what, &self)),
            Some(Lost) if is_set => self.found.lost = Some(one_line(&self.found.path)),
            Some(Foreign) if is_set => self.found.ignored("ignored, it is for another system"),
            Some(Leaf | Lost | Foreign) | None => {}
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.node {
            Some(Leaf) => json.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => json.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.node, Some(List(_))) { "an array" } else { "an object" })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let (fields, free) = match self.node {
            Some(Object(fields)) => (*fields, None),
            Some(Map(node)) => (&[][..], Some(*node)),
            _ => {
                while map.next_key::<IgnoredAny>()?.is_some() {
                    map.next_value_seed(self.below(None))?;
                }
                return self.value(true, Unexpected::Map);
            }
        };
        // Go takes the last of two, others the first: nobody can mean that.
        let mut seen = vec![false; fields.len()];
        let length = self.found.path.len();
        while let Some(key) = map.next_key::<String>()? {
            if length > 0 {
                self.found.path.push('.');
            }
            self.found.path.push_str(&key);
            let at = fields.iter().position(|(name, _)| *name == key);
            if at.is_some_and(|i| std::mem::replace(&mut seen[i], true)) {
                return Err(de::Error::custom("given twice"));
            }
            let node = free.or(at.map(|i| &fields[i].1));
            if node.is_none() {
                self.found.ignored("unknown property, ignored");
            }
            map.next_value_seed(self.below(node))?;
            self.found.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let Some(List(node)) = self.node else {
            // `[]` is nothing that is asked for.
            let mut is_set = false;
            while !matches!(self.node, Some(Object(_) | Map(_))) && seq.next_element_seed(self.below(None))?.is_some() {
                is_set = true;
            }
            return self.value(is_set, Unexpected::Seq);
        };
        let length = self.found.path.len();
        for i in 0.. {
            self.found.path.push_str(&format!("[{i}]"));
            let more = seq.next_element_seed(self.below(Some(node)))?.is_some();
            self.found.path.truncate(length);
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.value(value, Unexpected::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.value(value != 0, Unexpected::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.value(value != 0, Unexpected::Signed(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.value(value != 0.0, Unexpected::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.value(!value.is_empty(), Unexpected::Str(value))
    }
}
