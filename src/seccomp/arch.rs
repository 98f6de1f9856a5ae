//! Architectures: config.json's, libseccomp's and the kernel's names for them.

use libseccomp::ScmpArch;
use oci_spec::runtime::Arch;

/// The bit that tells a call of the x32 ABI from one of x86_64: `__X32_SYSCALL_BIT` of asm/unistd.h.
pub const X32_BIT: u32 = 0x4000_0000;

/// Where ARM's private calls (cacheflush, set_tls) begin: `__ARM_NR_BASE` of asm/unistd.h.
pub const ARM_PRIVATE: u32 = 0x000f_0000;

const TABLE: [(Arch, ScmpArch); 23] = [
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
    (Arch::ScmpArchSheb, ScmpArch::Sheb),
];

/// libseccomp's name.
pub fn to_scmp(arch: Arch) -> ScmpArch {
    TABLE.iter().find(|(a, _)| *a == arch).map_or(ScmpArch::Native, |(_, scmp)| *scmp)
}

/// The architecture this program was built for, never `ScmpArchNative`.
pub fn native() -> Option<Arch> {
    let native = ScmpArch::native();
    TABLE.iter().find(|(_, scmp)| *scmp == native).map(|(arch, _)| *arch)
}

/// The `AUDIT_ARCH_*` that the kernel puts into `seccomp_data.arch`. It is the value of `SCMP_ARCH_*` but for x32,
/// which the kernel tells by the number of the call.
pub fn audit(arch: Arch) -> u32 {
    match arch {
        Arch::ScmpArchX32 => Arch::ScmpArchX86_64 as u32,
        other => other as u32,
    }
}

/// Whether a kernel of architecture `native` can run programs of `arch`. Only said no where it is sure: between the
/// two families that profiles list together.
pub fn runs_on(arch: Arch, native: Arch) -> bool {
    let family = |arch| match arch {
        Arch::ScmpArchX86 | Arch::ScmpArchX86_64 | Arch::ScmpArchX32 => Some("x86"),
        Arch::ScmpArchArm | Arch::ScmpArchAarch64 => Some("arm"),
        _ => None,
    };
    match (family(arch), family(native)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    #[test]
    fn names_agree() {
        for (arch, scmp) in TABLE {
            assert_eq!(ScmpArch::from_str(&arch.to_string()).unwrap(), scmp);
            assert_eq!(to_scmp(arch), scmp);
        }
    }

    #[test]
    fn families() {
        use Arch::*;
        assert!(runs_on(ScmpArchX86, ScmpArchX86_64) && runs_on(ScmpArchArm, ScmpArchAarch64));
        assert!(!runs_on(ScmpArchArm, ScmpArchX86_64) && !runs_on(ScmpArchX86_64, ScmpArchAarch64));
        assert!(runs_on(ScmpArchS390, ScmpArchX86_64), "left for libseccomp to refuse");
        assert!(native().is_some());
    }
}
