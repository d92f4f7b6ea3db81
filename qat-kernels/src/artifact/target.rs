//! The core families that a file can be packed for.

/// A core family: the order of the packed weights in a file suits one of them, or none in particular.
///
/// The engine of a workstation reads the files of every family. The engine of a microcontroller reads its own family's and
/// portable ones; others are refused with [`OpFault::Target`](crate::OpFault::Target).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Plain rows, for any core.
    #[default]
    Portable,
    /// Armv7E-M with DSP instructions: Cortex-M4 and Cortex-M7.
    CortexM4,
    /// Arm cores without DSP instructions: Cortex-M0, M0+ and M3.
    CortexM0,
    /// Armv8.1-M with Helium: Cortex-M55.
    CortexM55,
    /// RV32 with multiplication and compressed instructions.
    RiscV32,
    /// Workstations.
    Host,
}

impl Target {
    /// Every family.
    pub const ALL: [Target; 6] = [
        Target::Portable,
        Target::CortexM4,
        Target::CortexM0,
        Target::CortexM55,
        Target::RiscV32,
        Target::Host,
    ];

    /// The family that this build runs on, `None` on machines with an operating system.
    pub const DEVICE: Option<Target> = if cfg!(core_family = "cortex-m4") {
        Some(Target::CortexM4)
    } else if cfg!(core_family = "cortex-m0") {
        Some(Target::CortexM0)
    } else if cfg!(core_family = "cortex-m55") {
        Some(Target::CortexM55)
    } else if cfg!(core_family = "riscv32") {
        Some(Target::RiscV32)
    } else if cfg!(target_os = "none") {
        Some(Target::Portable)
    } else {
        None
    };

    /// Its name on command lines and in reports.
    ///
    /// ```
    /// use qat_kernels::artifact::Target;
    /// assert_eq!(Target::CortexM4.name(), "cortex-m4");
    /// assert_eq!(format!("{} of {}", Target::RiscV32, Target::ALL.len()), "riscv32 of 6"); // `Display`, too
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Target::Portable => "portable",
            Target::CortexM4 => "cortex-m4",
            Target::CortexM0 => "cortex-m0",
            Target::CortexM55 => "cortex-m55",
            Target::RiscV32 => "riscv32",
            Target::Host => "host",
        }
    }

    /// The family of that name.
    ///
    /// ```
    /// use qat_kernels::artifact::Target;
    /// assert_eq!(Target::from_name("cortex-m55"), Some(Target::CortexM55));
    /// assert_eq!(Target::from_name("Cortex-M55"), None); // as it is written
    /// assert!(Target::ALL.into_iter().all(|target| Target::from_name(target.name()) == Some(target)));
    /// ```
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Its number in a file.
    pub(crate) const fn id(self) -> u8 {
        match self {
            Target::Portable => 0,
            Target::CortexM4 => 1,
            Target::CortexM0 => 2,
            Target::CortexM55 => 3,
            Target::RiscV32 => 4,
            Target::Host => 5,
        }
    }

    pub(crate) const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Target::Portable,
            1 => Target::CortexM4,
            2 => Target::CortexM0,
            3 => Target::CortexM55,
            4 => Target::RiscV32,
            5 => Target::Host,
            _ => return None,
        })
    }

    /// Whether an engine built for `device` reads files of this family.
    pub(crate) const fn runs_on(self, device: Option<Target>) -> bool {
        match device {
            None => true,
            Some(device) => self.id() == Target::Portable.id() || self.id() == device.id(),
        }
    }
}

impl core::fmt::Display for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for target in Target::ALL {
            assert_eq!(Target::from_name(target.name()), Some(target));
            assert_eq!(Target::from_id(target.id()), Some(target));
        }
        assert_eq!(Target::from_id(Target::ALL.len() as u8), None);
        assert_eq!(Target::from_name("z80"), None);
    }

    #[test]
    fn a_device_runs_its_own_files_and_portable_ones() {
        for file in Target::ALL {
            assert!(file.runs_on(None));
            assert!(file.runs_on(Some(file)));
            assert_eq!(file.runs_on(Some(Target::Portable)), file == Target::Portable);
        }
        assert!(Target::Portable.runs_on(Some(Target::CortexM4)));
    }
}
