//! What a Pi tells of its power supply and its heat.

use crate::base::limits::DOCTOR_HOT_MILLIDEGREES;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;

/// What is reported; elsewhere nothing is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Power {
    /// Too little voltage in the last seconds (the driver raspberrypi-hwmon).
    is_under_voltage: Option<bool>,
    /// The firmware's flags.
    throttled: Option<u32>,
    millidegrees: Option<i64>,
}

/// The firmware's flags by bit, as `vcgencmd get_throttled` has them.
const FLAGS: [(u32, &str); 8] = [
    (0, "voltage too low now"),
    (1, "clock capped now"),
    (2, "throttled now"),
    (3, "soft temperature limit reached now"),
    (16, "voltage was too low since boot"),
    (17, "clock was capped since boot"),
    (18, "was throttled since boot"),
    (19, "soft temperature limit was reached since boot"),
];
/// Flags about the present.
const NOW: u32 = 0b1111;

pub(crate) fn read(root: &Root) -> Power {
    let is_under_voltage = under_voltage(root);
    Power {
        is_under_voltage,
        // Where the driver is, the kernel answers this file with a stack trace in its log: old kernels only.
        throttled: if is_under_voltage.is_none() { throttled(root) } else { None },
        millidegrees: root.word("/sys/class/thermal/thermal_zone0/temp").and_then(|text| text.parse().ok()),
    }
}

fn under_voltage(root: &Root) -> Option<bool> {
    let monitors = root.names("/sys/class/hwmon");
    let path = |monitor: &String, file: &str| format!("/sys/class/hwmon/{monitor}/{file}");
    let volt =
        monitors.iter().find(|monitor| root.word(&path(monitor, "name")).as_deref() == Some("rpi_volt"))?;
    match root.word(&path(volt, "in0_lcrit_alarm"))?.as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn throttled(root: &Root) -> Option<u32> {
    let text = root.word("/sys/devices/platform/soc/soc:firmware/get_throttled")?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

pub(crate) fn supply(power: &Power) -> Finding {
    const ID: &str = "power";
    const MEANING: &str = "A Pi with too little voltage slows down, resets, and damages its SD card.";
    const ADVICE: &str = "Use the supply made for this Pi and a short, thick cable; take off what draws from its USB ports. \
                          `vcgencmd get_throttled` and `journalctl -k --grep voltage` tell more.";
    let flags = power.throttled.unwrap_or(0);
    let set: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, text)| *text).collect();
    let finding = match (power.is_under_voltage, power.throttled) {
        (Some(true), _) => Finding::warn(ID, "voltage too low in the last seconds", MEANING, ADVICE),
        (Some(false), _) => Finding::ok(
            ID,
            "voltage as it should be",
            "Since the last seconds; the kernel's log has what was before.",
        ),
        (None, Some(0)) => Finding::ok(ID, "never throttled since boot", "Supply and cooling are enough."),
        (None, Some(flags)) if set.is_empty() => {
            Finding::ok(ID, format!("flags not known: {flags:#x}"), "None of those that are known is set.")
        }
        (None, Some(flags)) => {
            let when = if flags & NOW == 0 { "not now, but before: " } else { "" };
            Finding::warn(ID, format!("{when}{}", set.join(", ")), MEANING, ADVICE)
        }
        (None, None) => Finding::ok(ID, "not reported here", "Only a Raspberry Pi tells."),
    };
    finding.value("under_voltage", power.is_under_voltage).value("throttled_flags", power.throttled)
}

pub(crate) fn temperature(power: &Power) -> Finding {
    const ID: &str = "temperature";
    let Some(millidegrees) = power.millidegrees else {
        return Finding::ok(ID, "not reported here", "The kernel has no sensor for it.");
    };
    let found = format!("{} °C", millidegrees / 1000);
    let finding = if millidegrees >= DOCTOR_HOT_MILLIDEGREES {
        Finding::warn(
            ID,
            found,
            "From 80 °C on a Pi slows itself down; everything the hub does takes longer.",
            "Give it a heat sink, a fan or air around its case.",
        )
    } else {
        Finding::ok(ID, found, "Below the 80 °C at which a Pi slows itself down.")
    };
    finding.value("temperature_millidegrees", millidegrees)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;
    use std::fs;

    #[test]
    fn every_flag_is_named_and_the_past_told_from_the_present() {
        let judge = |flags| supply(&Power { throttled: Some(flags), ..Power::default() });
        assert_eq!(judge(0).verdict, Verdict::Ok);
        for (bit, text) in FLAGS {
            let finding = judge(1 << bit);
            assert_eq!(finding.verdict, Verdict::Warn, "{text}");
            assert!(finding.found.ends_with(text), "{finding:?}");
            assert_eq!(finding.found.starts_with("not now, but before: "), bit >= 16, "{finding:?}");
        }
        let both = judge(0x50005);
        assert_eq!(both.found.matches(", ").count(), 3, "{both:?}");
        assert_eq!(judge(1 << 8).verdict, Verdict::Ok, "a flag of later firmware");
    }

    #[test]
    fn voltage_too_low_is_a_warning_and_silence_is_well() {
        let judge = |is_under_voltage| supply(&Power { is_under_voltage, ..Power::default() });
        assert_eq!(judge(Some(true)).verdict, Verdict::Warn);
        assert_eq!(judge(Some(false)).verdict, Verdict::Ok);
        assert_eq!((judge(None).verdict, &*judge(None).found), (Verdict::Ok, "not reported here"));
    }

    #[test]
    fn heat_is_a_warning_from_80_degrees() {
        let judge = |millidegrees| temperature(&Power { millidegrees, ..Power::default() });
        assert_eq!(judge(Some(79_999)).verdict, Verdict::Ok);
        assert_eq!(judge(Some(80_000)).verdict, Verdict::Warn);
        assert_eq!(judge(Some(-5_000)).found, "-5 °C");
        assert_eq!(judge(None).verdict, Verdict::Ok);
    }

    #[test]
    fn the_old_file_is_read_only_where_the_driver_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), text).unwrap();
        };
        write("/sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
        write("/sys/class/thermal/thermal_zone0/temp", "48312\n");
        assert_eq!(read(&root).throttled, Some(0x50005));
        assert_eq!(read(&root).millidegrees, Some(48_312));
        write("/sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
        write("/sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n");
        assert_eq!(read(&root).is_under_voltage, None);
        write("/sys/class/hwmon/hwmon1/name", "rpi_volt\n");
        write("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n");
        assert_eq!((read(&root).is_under_voltage, read(&root).throttled), (Some(false), None));
    }
}
