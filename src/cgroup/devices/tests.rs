use std::path::Path;
use std::process::Command;

use super::super::fs::tests::Place;
use super::*;

fn apply(cgroup: &Cgroup, rules: &[Rule]) -> Result<()> {
    super::apply(cgroup, rules, Others::Remove)
}

const BLOCK: u32 = bpf::BPF_DEVCG_DEV_BLOCK as u32;
const CHAR: u32 = bpf::BPF_DEVCG_DEV_CHAR as u32;

/// Runs a program on `struct bpf_cgroup_dev_ctx`: enough of the machine for what `program` makes, and strict about the rest.
fn run(program: &[Insn], kind: u32, access: i32, major: u32, minor: u32) -> bool {
    let context = [(access as u32) << 16 | kind, major, minor];
    let mut regs = [0u64; 11];
    let mut pc = 0;
    for _ in 0..=program.len() {
        let insn = program[pc];
        let (dst, src, imm) = (usize::from(insn.dst()), usize::from(insn.src()), insn.imm);
        pc += 1;
        let jump = match insn.code {
            LOAD => {
                assert_eq!((insn.src(), insn.off % 4), (CONTEXT, 0));
                regs[dst] = u64::from(context[insn.off as usize / 4]);
                false
            }
            MOV => {
                regs[dst] = imm as u64;
                false
            }
            MOV_REG => {
                regs[dst] = regs[src];
                false
            }
            AND => {
                regs[dst] &= imm as u64;
                false
            }
            SHIFT_RIGHT => {
                regs[dst] >>= imm;
                false
            }
            JUMP_IF => regs[dst] as u32 == imm as u32,
            JUMP_IF_NOT => regs[dst] as u32 != imm as u32,
            EXIT => return regs[0] == 1,
            code => panic!("no such instruction: {code:#x}"),
        };
        if jump {
            assert!(insn.off > 0, "only forward");
            pc += insn.off as usize;
        }
    }
    panic!("the program does not end");
}

/// The documented meaning of a list, straight from the words.
fn meaning(rules: &[Rule], kind: u32, access: i32, major: u32, minor: u32) -> bool {
    [R, W, M].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let matches = |rule: &&Rule| {
            (rule.kind == Kind::Any || (rule.kind == Kind::Block) == (kind == BLOCK))
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
                && rule.access & bit != 0
        };
        rules.iter().rev().find(matches).is_some_and(|rule| rule.allow)
    })
}

fn of(json: &str) -> Vec<Rule> {
    rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap(), &[]).unwrap()
}

fn check(json: &str, table: &[(u32, u32, u32, i32, bool)]) {
    let rules = of(json);
    let program = program(&rules);
    for &(kind, major, minor, access, want) in table {
        assert_eq!(run(&program, kind, access, major, minor), want, "{json}: {kind} {major}:{minor} {access}");
        assert_eq!(meaning(&rules, kind, access, major, minor), want, "{json}: {kind} {major}:{minor} {access}");
    }
}

/// What every list that denies by default must give.
const DEFAULT: &[(u32, u32, u32, i32, bool)] = &[
    (CHAR, 1, 3, R | W, true), // null
    (CHAR, 1, 5, R, true),     // zero
    (CHAR, 1, 7, W, true),     // full
    (CHAR, 1, 8, R, true),     // random
    (CHAR, 1, 9, R, true),     // urandom
    (CHAR, 5, 0, R | W, true), // tty
    (CHAR, 5, 2, R | W, true), // ptmx
    (CHAR, 136, 7, R | W, true),
    (CHAR, 10, 200, R | W, true), // tun
    (CHAR, 10, 234, M, true),     // mknod of anything ...
    (BLOCK, 8, 0, M, true),
    (CHAR, 10, 234, R, false), // ... and no open of it
    (BLOCK, 8, 0, R, false),
    (CHAR, 1, 1, R, false),     // mem
    (CHAR, 1, 11, R, false),    // kmsg
    (CHAR, 5, 1, R | W, false), // console
    (BLOCK, 1, 3, R, false),    // not null: the block device
];

#[test]
fn defaults() {
    check("[]", DEFAULT);
    check(r#"[{"allow": false, "access": "rwm"}]"#, DEFAULT);
    check(r#"[{"allow": false, "type": "a", "major": -1, "minor": -1, "access": "rwm"}]"#, DEFAULT);
}

#[test]
fn last_match_wins() {
    check(
        r#"[{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
            {"allow": false, "type": "b", "major": 8, "minor": 16, "access": "r"},
            {"allow": true, "type": "c", "major": 4, "minor": 1, "access": "r"},
            {"allow": true, "type": "c", "major": 4, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "major": 4, "minor": 2, "access": "rw"},
            {"allow": false, "type": "c", "major": 4, "minor": 2, "access": "w"},
            {"allow": true, "type": "c", "major": 4294967295, "minor": 4294967295, "access": "rw"}]"#,
        &[
            (CHAR, 10, 200, R | W, true),
            (CHAR, 10, 201, R, false),
            (BLOCK, 8, 0, R, true),
            (BLOCK, 8, 0, R | W, false),
            (BLOCK, 8, 16, R, false), // a hole in a wildcard
            (CHAR, 8, 0, R, false),
            (CHAR, 4, 1, R | W, true), // by two rules
            (CHAR, 4, 2, R, true),
            (CHAR, 4, 2, W, false),
            (CHAR, 4, 2, R | W, false),
            (CHAR, u32::MAX, u32::MAX, R | W, true),
            (CHAR, u32::MAX, 1, R, false),
        ],
    );
    // Later "all" rules begin anew.
    check(
        r#"[{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"}, {"allow": false, "access": "rwm"}]"#,
        DEFAULT,
    );
}

#[test]
fn everything_but() {
    check(
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "rwm"}]"#,
        &[
            (CHAR, 10, 200, R | W, true),
            (CHAR, 1, 11, R, true),
            (BLOCK, 9, 0, M, true),
            (BLOCK, 8, 0, R, false),
            (BLOCK, 8, 0, M, false),
        ],
    );
}

#[test]
fn privileged_needs_no_program() {
    for json in [
        r#"[{"allow": true, "access": "rwm"}]"#,
        r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "a", "access": "mrw"}]"#,
        r#"[{"allow": false, "type": "b", "major": 8, "access": "r"}, {"allow": true, "access": "rwm"}]"#,
    ] {
        assert!(allows_everything(&effective(&of(json))), "{json}");
    }
    for json in [
        "[]",
        r#"[{"allow": true, "access": "rw"}]"#,
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "r"}]"#,
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "access": "rwm"}]"#,
    ] {
        assert!(!allows_everything(&effective(&of(json))), "{json}");
    }
}

#[test]
fn redefined_defaults() {
    let nodes = r#"[{"path": "/dev/null", "type": "c", "major": 9, "minor": 9}]"#;
    let rules = rules(&[], &serde_json::from_str::<Vec<LinuxDevice>>(nodes).unwrap()).unwrap();
    let program = program(&rules);
    assert!(!run(&program, CHAR, R, 1, 3));
    assert!(run(&program, CHAR, R, 1, 5));
    assert!(!run(&program, CHAR, R, 9, 9), "a node alone allows nothing");
}

#[test]
fn refused() {
    for (json, words) in [
        (r#"[{"allow": false}]"#, "device access field cannot be empty"),
        (r#"[{"allow": false, "access": ""}]"#, "device access field cannot be empty"),
        (r#"[{"allow": true, "access": "rwx"}]"#, "unknown device access 'x'"),
        (r#"[{"allow": true, "type": "p", "access": "r"}]"#, "invalid cgroup device type \"p\""),
        (r#"[{"allow": true, "major": -2, "access": "r"}]"#, "invalid device number -2"),
        (r#"[{"allow": true, "minor": 4294967296, "access": "r"}]"#, "invalid device number 4294967296"),
    ] {
        let error = rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap(), &[]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("linux.resources.devices[0]: {words}")), "{error}");
    }
}

/// Small random lists over few numbers, each asked about every access.
#[test]
fn program_means_what_the_rules_say() {
    let mut seed = 1u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    for _ in 0..3000 {
        let list: Vec<Rule> = (0..random(9))
            .map(|_| Rule {
                allow: random(2) == 0,
                kind: [Kind::Any, Kind::Block, Kind::Char][random(3) as usize],
                major: [None, Some(1), Some(2)][random(3) as usize],
                minor: [None, Some(1), Some(2)][random(3) as usize],
                access: random(7) as i32 + 1,
            })
            .collect();
        let program = program(&list);
        for kind in [BLOCK, CHAR] {
            for (major, minor) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)] {
                for access in 1..8 {
                    let want = meaning(&list, kind, access, major, minor);
                    assert_eq!(run(&program, kind, access, major, minor), want, "{list:?}");
                    assert!(want || !allows_everything(&effective(&list)), "{list:?}");
                }
            }
        }
    }
}

/// As many rules as no engine sends, none of which makes another one superfluous.
fn many(n: u32) -> Vec<Rule> {
    (0..n)
        .map(|i| Rule {
            allow: i % 3 != 0,
            kind: [Kind::Char, Kind::Block][i as usize % 2],
            major: Some(20 + i),
            minor: (i % 5 != 0).then_some(i),
            access: i as i32 % 7 + 1,
        })
        .collect()
}

/// Runs a script of sh in the cgroup.
fn script(place: &Place, cgroup: &Cgroup, script: &str) -> String {
    let script = format!("echo $$ > {}/cgroup.procs || exit 1; {script}", cgroup.path().display());
    let out = Command::new("sh").args(["-c", &script]).current_dir(&place.scratch).env("LC_ALL", "C").output().unwrap();
    String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
}

/// Makes two nodes and opens them and null; prints what works.
const TRY: &str = "rm -f kmsg loop; mknod kmsg c 1 11 && echo mknod; mknod loop b 7 0 && echo mknod-b; \
    (: < /dev/null) && echo null; (: < kmsg) 2>/dev/null && echo kmsg; (: < loop) 2>/dev/null && echo loop";

#[test]
fn root_kernel_obeys() {
    let place = Place::new("devices");
    let cgroup = place.create("c");
    apply(&cgroup, &of("[]")).unwrap();
    assert_eq!(script(&place, &cgroup, TRY), "mknod\nmknod-b\nnull\n");

    // Replaced on the running cgroup, as `update` does.
    let again = super::super::open_existing(cgroup.path()).unwrap().unwrap();
    apply(&again, &of(r#"[{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]"#)).unwrap();
    assert_eq!(bpf::device_programs(cgroup.as_fd()).unwrap().len(), 1);
    assert_eq!(script(&place, &cgroup, TRY), "mknod\nmknod-b\nnull\nkmsg\n");

    // What allows everything leaves no program; and from nothing to something.
    apply(&again, &of(r#"[{"allow": true, "access": "rwm"}]"#)).unwrap();
    assert!(bpf::device_programs(cgroup.as_fd()).unwrap().is_empty());
    assert!(script(&place, &cgroup, TRY).contains("kmsg"));
    apply(&again, &of("[]")).unwrap();
    assert_eq!(script(&place, &cgroup, TRY), "mknod\nmknod-b\nnull\n");

    // A program of somebody else beside ours goes.
    let other = bpf::load_device_program(&program(&of("[]")), c"Apache-2.0", "other").unwrap();
    bpf::attach_device_program(cgroup.as_fd(), other.as_fd(), None).unwrap();
    assert_eq!(bpf::device_programs(cgroup.as_fd()).unwrap().len(), 2);
    apply(&again, &of("[]")).unwrap();
    assert_eq!(bpf::device_programs(cgroup.as_fd()).unwrap().len(), 1);
}

#[test]
fn root_a_subgroup_cannot_widen() {
    let place = Place::new("devices-below");
    let above = place.create("above");
    let below = place.create("above/below");
    apply(&above, &of("[]")).unwrap();
    apply(&below, &of(r#"[{"allow": true, "type": "c", "major": 1, "access": "rwm"}]"#)).unwrap();
    assert_eq!(script(&place, &below, TRY), "mknod\nmknod-b\nnull\n");
}

#[test]
fn root_verifier_takes_many_rules() {
    let place = Place::new("devices-many");
    let cgroup = place.create("c");
    for n in [1, 7, 64, 500, 1500] {
        apply(&super::super::open_existing(cgroup.path()).unwrap().unwrap(), &many(n)).unwrap();
    }
    let list: Vec<Rule> = many(500).into_iter().chain(of("[]")).collect();
    let again = super::super::open_existing(cgroup.path()).unwrap().unwrap();
    apply(&again, &list).unwrap();
    assert_eq!(script(&place, &cgroup, TRY), "mknod\nmknod-b\nnull\n");
}

/// A process that opens null all the time never fails while the rules change under it, and never gets at kmsg.
#[test]
fn root_replacing_leaves_no_gap() {
    let place = Place::new("devices-replace");
    let cgroup = place.create("c");
    apply(&cgroup, &of("[]")).unwrap();
    let stop = place.scratch.join("stop");
    std::thread::scope(|scope| {
        let loops = "mknod kmsg c 1 11; while [ ! -e stop ]; do : < /dev/null || echo null; (: < kmsg) 2>/dev/null && echo kmsg; done";
        let looping = scope.spawn(|| script(&place, &cgroup, loops));
        let again = super::super::open_existing(cgroup.path()).unwrap().unwrap();
        for n in 0..300 {
            let list: Vec<Rule> = many(n % 4).into_iter().chain(of("[]")).collect();
            apply(&again, &list).unwrap();
        }
        std::fs::write(&stop, "").unwrap();
        assert_eq!(looping.join().unwrap(), "");
    });
    assert!(Path::new(&stop).exists());
}
