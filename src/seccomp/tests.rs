//! The whole of seccomp, by behaviour: profile in, verdict on a call out.

use super::sim::*;
use super::*;
use crate::seccomp::arch::X32_BIT;
use oci_spec::runtime::Arch;
use serde_json::{Value, json};

fn profile(json: Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

fn filter(json: Value) -> Filter {
    compile(&profile(json)).unwrap()
}

fn error(json: Value) -> String {
    compile(&profile(json)).map(|_| ()).unwrap_err().to_string()
}

/// Default ERRNO with one entry.
fn entry(entry: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry]})
}

fn allow(names: &[&str]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW"})
}

fn allow_if(name: &str, args: Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
}

#[test]
fn actions() {
    for (action, verdict) in [
        ("SCMP_ACT_KILL", KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
        ("SCMP_ACT_TRAP", TRAP),
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_TRACE", trace(1)),
        ("SCMP_ACT_LOG", LOG),
    ] {
        let rule = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getcwd", "chdir"], "action": action}]}));
        assert_eq!(rule.call("getcwd", &[]), verdict, "{action}");
        assert_eq!(rule.call("chdir", &[]), verdict, "{action}");
        assert_eq!(rule.call("read", &[]), ALLOW, "{action}");
        let default = filter(json!({"defaultAction": action, "syscalls": [allow(&["getcwd", "clone3"])]}));
        assert_eq!(default.call("getcwd", &[]), ALLOW, "{action}");
        assert_eq!(default.call("read", &[]), verdict, "{action}");
        assert_eq!(rule.warnings, Vec::<String>::new());
    }
    let bare = filter(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
    assert_eq!(bare.call("read", &[]), KILL_PROCESS);
}

#[test]
fn errnos() {
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
        {"names": ["chdir"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        {"names": ["rename"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        allow(&["clone3"])]}));
    assert_eq!(f.call("getcwd", &[]), errno(22));
    assert_eq!(f.call("chdir", &[]), EPERM);
    assert_eq!(f.call("mkdir", &[]), trace(65535));
    assert_eq!(f.call("rmdir", &[]), errno(0));
    assert_eq!(f.call("rename", &[]), errno(13), "the same as the default");
    assert_eq!(f.call("read", &[]), errno(13));
}

#[test]
fn an_errno_out_of_range_is_not_cut_to_success() {
    let rule = |action, errno| entry(json!({"names": ["getcwd"], "action": action, "errnoRet": errno}));
    assert_eq!(error(rule("SCMP_ACT_ERRNO", 65536)), "linux.seccomp.syscalls[0].errnoRet: 65536: at most 4095");
    assert_eq!(error(rule("SCMP_ACT_TRACE", 65536)), "linux.seccomp.syscalls[0].errnoRet: 65536: at most 65535");
    assert_eq!(
        error(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096})),
        "linux.seccomp.defaultErrnoRet: 4096: at most 4095"
    );
    let ignored = filter(json!({"defaultAction": "SCMP_ACT_LOG", "defaultErrnoRet": 1}));
    assert_eq!(ignored.warnings, ["linux.seccomp.defaultErrnoRet: ignored, the action has no errno"]);
}

#[test]
fn operators() {
    const HIGH: u64 = 1 << 32;
    for (op, yes, no) in [
        ("SCMP_CMP_NE", [4, 6, 5 + HIGH], [5, 5, 5]),
        ("SCMP_CMP_LT", [0, 3, 4], [5, 6, 4 + HIGH]),
        ("SCMP_CMP_LE", [0, 4, 5], [6, 7, 5 + HIGH]),
        ("SCMP_CMP_EQ", [5, 5, 5], [4, 6, 5 + HIGH]),
        ("SCMP_CMP_GE", [5, 6, HIGH], [0, 3, 4]),
        ("SCMP_CMP_GT", [6, 7, HIGH], [0, 4, 5]),
    ] {
        // An errno, not ALLOW as default: the newest name is below lseek, and this is not about the stub.
        let f = filter(json!({"defaultAction": "SCMP_ACT_TRAP", "syscalls": [
            allow(&["clone3"]), allow_if("lseek", json!([{"index": 1, "value": 5, "op": op}]))]}));
        for value in yes {
            assert_eq!(f.call("lseek", &[0, value, 0]), ALLOW, "{op} {value}");
        }
        for value in no {
            assert_eq!(f.call("lseek", &[5, value, 5]), TRAP, "{op} {value}");
        }
    }
}

#[test]
fn masked_equal_takes_the_mask_from_value() {
    let f = filter(entry(allow_if(
        "lseek",
        json!([{"index": 5, "value": 0xf0, "valueTwo": 0x30, "op": "SCMP_CMP_MASKED_EQ"}]),
    )));
    assert_eq!(f.call("lseek", &[0, 0, 0, 0, 0, 0x3f]), ALLOW);
    assert_eq!(f.call("lseek", &[0, 0, 0, 0, 0, 0x7f]), EPERM);
    let absent = filter(entry(allow_if("lseek", json!([{"index": 0, "value": 0xf0, "op": "SCMP_CMP_MASKED_EQ"}]))));
    assert_eq!((absent.call("lseek", &[0x0f]), absent.call("lseek", &[0x1f])), (ALLOW, EPERM));
}

/// CVE-2017-18367: conditions on different arguments were or-ed.
#[test]
fn conditions_on_different_arguments_are_anded() {
    let f = filter(entry(allow_if(
        "lseek",
        json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 2, "op": "SCMP_CMP_EQ"}]),
    )));
    assert_eq!(f.call("lseek", &[1, 0, 2]), ALLOW);
    assert_eq!(f.call("lseek", &[1, 0, 0]), EPERM);
    assert_eq!(f.call("lseek", &[0, 0, 2]), EPERM);
    assert_eq!(f.call("lseek", &[0, 0, 0]), EPERM);
    assert!(f.warnings.is_empty());
}

#[test]
fn conditions_on_one_argument_are_ored_as_runc_does() {
    let f = filter(entry(allow_if(
        "lseek",
        json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]),
    )));
    assert_eq!(f.call("lseek", &[1]), ALLOW);
    assert_eq!(f.call("lseek", &[2]), ALLOW);
    assert_eq!(f.call("lseek", &[3, 9]), ALLOW, "the other arguments' conditions are alternatives too");
    assert_eq!(f.call("lseek", &[3]), EPERM);
    assert_eq!(f.warnings.len(), 1);
    assert!(f.warnings[0].starts_with("linux.seccomp.syscalls[0].args: two conditions on one argument"));
}

#[test]
fn entries_of_one_call_are_ored() {
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        allow_if("lseek", json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}])),
        allow_if("lseek", json!([{"index": 0, "value": 7, "op": "SCMP_CMP_GT"}]))]}));
    assert_eq!([1, 8, 5].map(|a| f.call("lseek", &[a])), [ALLOW, ALLOW, EPERM]);
}

#[test]
fn errors_name_their_field() {
    let notify = json!({"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"});
    assert_eq!(error(entry(notify)), "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY: not supported yet");
    assert_eq!(
        error(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY: not supported yet"
    );
    for field in ["listenerPath", "listenerMetadata"] {
        assert_eq!(
            error(json!({"defaultAction": "SCMP_ACT_ALLOW", field: "/x"})),
            format!("linux.seccomp.{field}: SCMP_ACT_NOTIFY: not supported yet")
        );
        filter(json!({"defaultAction": "SCMP_ACT_ALLOW", field: ""}));
    }
    let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    assert_eq!(
        error(entry(allow_if("lseek", args))),
        "linux.seccomp.syscalls[0].args[1].index: 6: the arguments of a call are 0 to 5"
    );
    assert_eq!(error(entry(allow(&["read", ""]))), "linux.seccomp.syscalls[0].names[1]: a system call's name is empty");
    let twice = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let error = error(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        allow_if("lseek", twice.clone()), {"names": ["lseek"], "action": "SCMP_ACT_TRAP", "args": twice}]}));
    assert!(error.starts_with("linux.seccomp.syscalls[1] (lseek): add the rule: libseccomp: "), "{error}");
    assert!(error.contains("hint: another entry has the same call"), "{error}");
}

#[test]
fn a_program_too_long_for_the_kernel() {
    let entries: Vec<Value> =
        (0..4500).map(|i| allow_if("lseek", json!([{"index": 0, "value": i * 2, "op": "SCMP_CMP_EQ"}]))).collect();
    let error = error(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}));
    assert!(error.starts_with("linux.seccomp: the program has ") && error.contains("the kernel takes 4096"), "{error}");
}

#[test]
fn unknown_names_are_skipped_with_one_warning() {
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        allow(&["getcwd", "zzz_call", "clone3"]), allow(&["aaa_call", "zzz_call"])]}));
    assert_eq!(f.warnings.len(), 1);
    assert!(
        f.warnings[0].contains("not known to libseccomp") && f.warnings[0].ends_with("skipped: aaa_call, zzz_call")
    );
    assert_eq!((f.call("getcwd", &[]), f.call("read", &[])), (ALLOW, EPERM));
}

#[test]
fn rules_that_say_what_the_default_says_are_skipped() {
    let f = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [allow(&["read"])]}));
    assert_eq!(f.call("read", &[]), ALLOW);
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [
        {"names": ["read", "clone3"], "action": "SCMP_ACT_ERRNO"}]}));
    assert_eq!(f.call("read", &[]), EPERM);
}

#[test]
fn flags() {
    const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    let flags = |flags: Value| filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags})).flags;
    assert_eq!(filter(json!({"defaultAction": "SCMP_ACT_ALLOW"})).flags, SPEC_ALLOW, "absent");
    assert_eq!(flags(json!([])), 0, "empty is not absent");
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_LOG"])), LOG);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"])), SPEC_ALLOW | LOG);
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC"])), 0);
    let wait = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}));
    assert_eq!((wait.flags, wait.warnings.len()), (0, 1));
}

#[test]
fn newer_calls_get_enosys() {
    let f = filter(entry(allow(&["getcwd", "openat2"])));
    assert_eq!(f.call("getcwd", &[]), ALLOW);
    assert_eq!(f.call("clone3", &[]), EPERM, "below the newest");
    let native = arch::native().unwrap();
    let newest = number(native, "openat2");
    assert_eq!(f.raw(native, newest, &[]), ALLOW);
    assert_eq!(f.raw(native, newest + 1, &[]), ENOSYS);
    assert_eq!(f.raw(native, 9999, &[]), ENOSYS);
}

#[test]
fn no_enosys_where_the_default_lets_through_or_is_enosys() {
    let native = arch::native().unwrap();
    let new = |default: Value| {
        let mut profile = json!({"syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_KILL_PROCESS"}]});
        profile.as_object_mut().unwrap().extend(default.as_object().unwrap().clone());
        filter(profile).raw(native, 9999, &[])
    };
    assert_eq!(new(json!({"defaultAction": "SCMP_ACT_ALLOW"})), ALLOW);
    assert_eq!(new(json!({"defaultAction": "SCMP_ACT_LOG"})), LOG);
    assert_eq!(new(json!({"defaultAction": "SCMP_ACT_TRACE"})), trace(1));
    assert_eq!(new(json!({"defaultAction": "SCMP_ACT_TRAP"})), ENOSYS);
    assert_eq!(new(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13})), ENOSYS);
    assert!(!enosys::wanted(libseccomp::ScmpAction::Errno(libc::ENOSYS)));
    assert_eq!(filter(json!({"defaultAction": "SCMP_ACT_ERRNO"})).raw(native, 9999, &[]), EPERM, "it names no call");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn architectures() {
    use Arch::*;
    let with = |archs: &[&str]| {
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": archs, "syscalls": [
            allow(&["getcwd", "openat2"])]}))
    };
    let all = with(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]);
    for arch in [ScmpArchX86_64, ScmpArchX86, ScmpArchX32] {
        assert_eq!(all.raw(arch, number(arch, "getcwd"), &[]), ALLOW, "{arch}");
        assert_eq!(all.raw(arch, number(arch, "read"), &[]), EPERM, "{arch}");
        assert_eq!(all.raw(arch, number(arch, "openat2"), &[]), ALLOW, "{arch}");
        assert_eq!(all.raw(arch, number(arch, "openat2") + 1, &[]), ENOSYS, "{arch}");
    }
    assert_eq!(all.raw(ScmpArchAarch64, number(ScmpArchAarch64, "getcwd"), &[]), KILL_THREAD, "none of this machine's");

    // The native architecture is always in; what is not listed is killed.
    for archs in [&[][..], &["SCMP_ARCH_X86_64"], &["SCMP_ARCH_NATIVE"]] {
        let native = with(archs);
        assert_eq!(native.raw(ScmpArchX86_64, number(ScmpArchX86_64, "getcwd"), &[]), ALLOW);
        assert_eq!(native.raw(ScmpArchX86_64, 9999, &[]), ENOSYS);
        assert_eq!(native.raw(ScmpArchX86, number(ScmpArchX86, "getcwd"), &[]), KILL_THREAD);
        assert_eq!(native.raw(ScmpArchX86_64, X32_BIT as i32 + 9999, &[]), KILL_THREAD, "x32");
        assert_eq!(native.raw(ScmpArchX86_64, -1, &[]), EPERM, "a call that a tracer skips");
    }
    let x32 = with(&["SCMP_ARCH_X32"]);
    assert_eq!(x32.raw(ScmpArchX86_64, 9999, &[]), ENOSYS);
    assert_eq!(x32.raw(ScmpArchX32, X32_BIT as i32 + 9999, &[]), ENOSYS);

    let foreign =
        error(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_S390X"]}));
    assert!(foreign.starts_with("linux.seccomp.architectures[1]: libseccomp: "), "{foreign}");
}

/// The architectures that this machine is not: 0 stands for "on to libseccomp's program".
#[test]
fn newer_calls_on_each_architecture() {
    use Arch::*;
    const ON: Verdict = Verdict(0x7e57);
    let names = ["getcwd", "openat2", "cacheflush"];
    let part = |arch| {
        let newest = enosys::newest(arch, names.into_iter()).unwrap();
        let mut program = enosys::check(arch, newest);
        program.push(bpf::ret(ON.0));
        bpf::Part { arch, program }
    };
    let stub = |archs: &[Arch]| bpf::assemble(&archs.iter().map(|arch| part(*arch)).collect::<Vec<_>>());
    let all = [
        ScmpArchX86_64,
        ScmpArchX86,
        ScmpArchX32,
        ScmpArchArm,
        ScmpArchAarch64,
        ScmpArchMips,
        ScmpArchMips64,
        ScmpArchMips64n32,
        ScmpArchMipsel,
        ScmpArchMipsel64,
        ScmpArchMipsel64n32,
        ScmpArchPpc,
        ScmpArchPpc64,
        ScmpArchPpc64le,
        ScmpArchS390,
        ScmpArchS390x,
        ScmpArchRiscv64,
        ScmpArchParisc,
        ScmpArchParisc64,
    ];
    let together = stub(&all);
    for arch in all {
        let alone = stub(&[arch]);
        let newest = number(arch, "openat2");
        for stub in [&alone, &together] {
            assert_eq!(run(stub, arch, number(arch, "getcwd"), &[]), ON, "{arch}");
            assert_eq!(run(stub, arch, newest, &[]), ON, "{arch}");
            assert_eq!(run(stub, arch, newest + 1, &[]), ENOSYS, "{arch}");
            assert_eq!(run(stub, arch, newest + 9999, &[]), ENOSYS, "{arch}");
            let setup = if matches!(arch, ScmpArchS390 | ScmpArchS390x) { ENOSYS } else { ON };
            let first = if arch == ScmpArchX32 { X32_BIT as i32 } else { 0 };
            assert_eq!(run(stub, arch, first, &[]), setup, "{arch}: call 0");
        }
        let other = if arch == ScmpArchRiscv64 { ScmpArchX86 } else { ScmpArchRiscv64 };
        assert_eq!(run(&alone, other, 9999, &[]), KILL_THREAD, "{arch} alone");
    }
    assert_eq!(run(&stub(&[ScmpArchX32, ScmpArchX86]), ScmpArchX86_64, 9, &[]), KILL_THREAD);
    // Libseccomp's program for x86_64 alone kills x32, so these are not for us to answer.
    assert_eq!(run(&stub(&[ScmpArchX86_64]), ScmpArchX86_64, X32_BIT as i32 + 9999, &[]), ON);
    assert_eq!(run(&stub(&[ScmpArchX86_64]), ScmpArchX86_64, -1, &[]), ON);
    for stub in [stub(&[ScmpArchArm]), together] {
        assert_eq!(run(&stub, ScmpArchArm, number(ScmpArchArm, "cacheflush"), &[]), ON);
        assert_eq!(run(&stub, ScmpArchArm, number(ScmpArchArm, "cacheflush") + 9, &[]), ON, "private, not new");
    }
    assert_eq!(enosys::newest(ScmpArchX86, ["no_such_call"].into_iter()), None);
}

/// Libseccomp's binary tree (many calls) and its plain list (few) must say the same.
#[test]
fn the_tree_says_what_the_list_says() {
    let native = arch::native().unwrap();
    let names: Vec<String> = (0..300).filter_map(|n| libseccomp::ScmpSyscall::from(n).get_name().ok()).collect();
    for count in [31, 32, 33, 34, 100] {
        let names: Vec<&str> = names.iter().step_by(2).take(count).map(String::as_str).collect();
        let mut entries = vec![allow_if("socket", json!([{"index": 0, "value": 9, "op": "SCMP_CMP_GT"}]))];
        entries.extend(names.iter().filter(|name| **name != "socket").map(|name| allow(&[name])));
        let f = filter(json!({"defaultAction": "SCMP_ACT_TRAP", "syscalls": entries}));
        for name in &names {
            assert_eq!(f.call(name, &[10]), ALLOW, "{name} of {count}");
        }
        assert_eq!(f.call("socket", &[9]), TRAP, "of {count}");
        assert_eq!(f.raw(native, 9999, &[]), ENOSYS, "of {count}");
    }
}

/// Libseccomp's reading, and so runc's: an entry without conditions wins over those with, the first such entry over
/// later ones. Nobody expects it, so it is said.
#[test]
fn entries_that_have_no_effect_are_told() {
    let trap = json!({"names": ["read", "lseek"], "action": "SCMP_ACT_TRAP"});
    let first = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    for (default, entries, verdict, lost) in [
        ("SCMP_ACT_ERRNO", json!([trap, allow(&["lseek"])]), TRAP, 1),
        ("SCMP_ACT_ERRNO", json!([allow(&["lseek"]), trap]), ALLOW, 1),
        ("SCMP_ACT_ERRNO", json!([allow_if("lseek", first.clone()), trap]), TRAP, 0),
        ("SCMP_ACT_ALLOW", json!([allow_if("lseek", first.clone()), trap]), TRAP, 0),
    ] {
        let f = filter(json!({"defaultAction": default, "syscalls": entries}));
        assert_eq!(f.call("lseek", &[1]), verdict);
        assert_eq!(f.warnings.len(), 1, "{:?}", f.warnings);
        assert!(f.warnings[0].starts_with(&format!("linux.seccomp.syscalls[{lost}] (lseek): no effect")));
    }
}

/// Not a test: prints what compiling costs. `cargo test --release figures -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn figures() {
    use std::os::fd::AsFd;
    use std::time::Instant;
    let median = |what: &str, run: &dyn Fn() -> Filter| {
        let mut times: Vec<u128> = (0..200).map(|_| (Instant::now(), run()).0.elapsed().as_micros()).collect();
        times.sort_unstable();
        println!("{what}: median {} us, min {} us, {} instructions", times[100], times[0], run().bpf.len() / 8);
    };
    println!("libseccomp {}", libseccomp::ScmpVersion::current().unwrap());
    let dir = std::env::temp_dir().join(format!("tare-seccomp-figures-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let cache = std::fs::File::open(&dir).unwrap();
    for name in NAMES {
        let text = builtin(name).unwrap();
        let all: LinuxSeccomp = serde_json::from_str(text).unwrap();
        let mut native = all.clone();
        native.set_architectures(None);
        median(&format!("{name}, native architecture"), &|| compile(&native).unwrap());
        median(&format!("{name}, as it is"), &|| compile(&all).unwrap());
        median(&format!("{name}, from the cache"), &|| compile_cached(&all, Some(cache.as_fd())).unwrap());
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
