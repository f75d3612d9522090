//! What the machine is: architecture, model, page size.

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;
use crate::cli::text::show_bytes;

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct Hardware {
    /// What this program was built for.
    architecture: &'static str,
    /// What the system's own programs were built for.
    userland: Option<Userland>,
    /// As the device tree names it.
    model: Option<String>,
    page_bytes: u64,
}

/// The head of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Userland {
    is_64_bit: bool,
    machine: u16,
}

/// `e_machine` of 32-bit Arm (ELF for the Arm Architecture, 5.2).
const MACHINE_ARM: u16 = 40;
/// The page sizes that were tried: everywhere, and the default kernel of the Pi 5.
const PAGES_BYTES: [u64; 2] = [4096, 16384];

pub(crate) fn read(root: &Root) -> Hardware {
    let model = ["/proc/device-tree/model", "/sys/firmware/devicetree/base/model"];
    Hardware {
        architecture: std::env::consts::ARCH,
        userland: root.bytes("/bin/sh").ok().and_then(|bytes| userland(&bytes)),
        model: model.iter().find_map(|path| root.word(path)).filter(|model| !model.is_empty()),
        page_bytes: rustix::param::page_size() as u64,
    }
}

/// Class and machine of an ELF file with the lowest byte first.
fn userland(head: &[u8]) -> Option<Userland> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let is_64_bit = match head.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    Some(Userland { is_64_bit, machine: u16::from_le_bytes([*head.get(18)?, *head.get(19)?]) })
}

pub(crate) fn architecture(hardware: &Hardware) -> Finding {
    const ID: &str = "architecture";
    let architecture = hardware.architecture;
    let model = hardware.model.as_ref().map_or_else(String::new, |model| format!(", {model}"));
    let found = format!("{architecture}{model}");
    let is_tried = matches!(architecture, "aarch64" | "x86_64");
    let finding = match hardware.userland {
        _ if !is_tried => Finding::warn(
            ID,
            found,
            "Tested are aarch64 and x86_64.",
            "Run a 64-bit system: every Pi from the 3 on and the Zero 2 W can.",
        ),
        Some(userland) if !userland.is_64_bit => {
            let package = if userland.machine == MACHINE_ARM { "armhf" } else { "32-bit" };
            Finding::ok(
                ID,
                format!("{found}, with 32-bit programs on a 64-bit kernel"),
                "This program is static and runs beside them.",
            )
            .advice(format!(
                "dpkg takes a 64-bit package on this {package} system only after `dpkg --add-architecture`; \
                 scripts/install needs no package."
            ))
        }
        Some(_) | None => Finding::ok(ID, found, "Built for it and tested on it."),
    };
    finding.value("architecture", architecture).value("model", hardware.model.clone())
}

pub(crate) fn page_size(hardware: &Hardware) -> Finding {
    const ID: &str = "page_size";
    let page = show_bytes(hardware.page_bytes);
    let finding = if !PAGES_BYTES.contains(&hardware.page_bytes) {
        Finding::warn(
            ID,
            page,
            "Tried are 4 and 16 KiB; with others memory may be used otherwise than counted.",
            "Watch `streamward status`: resident and accounted for should stay near each other.",
        )
    } else if hardware.page_bytes > PAGES_BYTES[0] {
        Finding::ok(
            ID,
            page,
            "As the default kernel of the Pi 5: resident memory is a little larger, nothing else.",
        )
    } else {
        Finding::ok(ID, page, "As on most machines.")
    };
    finding.value("page_size_bytes", hardware.page_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn pi() -> Hardware {
        Hardware {
            architecture: "aarch64",
            userland: Some(Userland { is_64_bit: true, machine: 183 }),
            model: Some("Raspberry Pi 5 Model B Rev 1.0".to_owned()),
            page_bytes: 16384,
        }
    }

    #[test]
    fn a_64_bit_pi_is_well_and_named() {
        let finding = architecture(&pi());
        assert_eq!(
            (finding.verdict, &*finding.found),
            (Verdict::Ok, "aarch64, Raspberry Pi 5 Model B Rev 1.0")
        );
        let unknown = architecture(&Hardware { userland: None, model: None, ..pi() });
        assert_eq!((unknown.verdict, &*unknown.found), (Verdict::Ok, "aarch64"));
    }

    #[test]
    fn a_32_bit_userland_on_a_64_bit_kernel_is_told() {
        let userland = Some(Userland { is_64_bit: false, machine: MACHINE_ARM });
        let finding = architecture(&Hardware { userland, ..pi() });
        assert_eq!(finding.verdict, Verdict::Ok);
        assert!(finding.found.contains("32-bit programs on a 64-bit kernel"), "{finding:?}");
        assert!(finding.advice.contains("armhf"), "{finding:?}");
    }

    #[test]
    fn an_architecture_that_nobody_tried_is_a_warning() {
        assert_eq!(architecture(&Hardware { architecture: "arm", ..pi() }).verdict, Verdict::Warn);
    }

    #[test]
    fn pages_of_4_and_16_kib_are_well_and_others_a_warning() {
        for (page_bytes, verdict) in
            [(4096, Verdict::Ok), (16384, Verdict::Ok), (65536, Verdict::Warn), (0, Verdict::Warn)]
        {
            assert_eq!(page_size(&Hardware { page_bytes, ..pi() }).verdict, verdict, "{page_bytes}");
        }
    }

    #[test]
    fn the_head_of_an_elf_file_tells_its_class() {
        let mut head = b"\x7fELF\x01\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([40, 0]);
        assert_eq!(userland(&head), Some(Userland { is_64_bit: false, machine: MACHINE_ARM }));
        assert_eq!(userland(&head[..19]), None, "cut");
        assert_eq!(userland(b"#!/bin/busybox sh, long enough"), None);
        head[4] = 9;
        assert_eq!(userland(&head), None);
    }
}
