//! `streamward shed --plan`: who would end if memory were short, in which order, and what each gives back.

use clap::Args;

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::AdminArgs;
use crate::cli::output::Output;
use crate::cli::records::{plan_json, pressure_name};
use crate::cli::text::{count, duration_of, show_bytes, show_duration, table};
use crate::wire::v1;

/// Show who would end if memory were short, in order
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward shed --plan
  streamward shed --plan --json | jq '.steps[] | select(.next_tick)'

The server sheds by itself, when memory is short and only as much as is needed: from pressure
HIGH on sessions that missed their heartbeats, at CRITICAL streams, those furthest behind first.
To end one by hand: streamward cancel.")]
pub(crate) struct ShedArgs {
    /// Only show it; there is no other way: shedding is the server's own doing
    #[arg(long, required = true)]
    plan: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Shows the plan.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: ShedArgs, output: &mut Output) -> Result<Exit, Failure> {
    let plan = args.admin.connect().await?.plan_shed().await?;
    if output.json {
        output.json(&plan_json(&plan))?;
        return Ok(Exit::Ok);
    }
    output.line(&heading(&plan))?;
    if plan.steps.is_empty() {
        output.notice("nobody is there to end");
        return Ok(Exit::Ok);
    }
    let header = ["END", "USER", "CLIENT", "WHY", "RETURNS", "NEXT TICK"];
    let rows: Vec<_> = plan.steps.iter().enumerate().map(|(at, step)| row(&plan, at, step)).collect();
    output.table(&table(&header, &rows))?;
    Ok(Exit::Ok)
}

fn heading(plan: &v1::PlanShedResponse) -> String {
    let memory = plan.memory.unwrap_or_default();
    format!(
        "pressure {}: {} used of {}, {} needed; the next tick ends {} of {}, {} at most",
        pressure_name(plan.pressure).to_lowercase(),
        show_bytes(memory.used_bytes),
        show_bytes(memory.ceiling_bytes),
        show_bytes(plan.needed_bytes),
        plan.ends_next_tick,
        plan.steps.len(),
        plan.ends_per_tick_max,
    )
}

fn row(plan: &v1::PlanShedResponse, at: usize, step: &v1::ShedStep) -> Vec<String> {
    vec![
        step.id.clone(),
        step.user.clone(),
        step.client_name.clone(),
        why(step),
        show_bytes(step.bytes),
        if at < plan.ends_next_tick as usize { "ends".to_owned() } else { String::new() },
    ]
}

fn why(step: &v1::ShedStep) -> String {
    match v1::ShedRung::try_from(step.rung).unwrap_or_default() {
        v1::ShedRung::StaleSession => {
            let silent_for = show_duration(duration_of(step.silent_for));
            format!("stale {silent_for}, {}", count(step.streams, "stream"))
        }
        v1::ShedRung::LaggingStream => format!("lag {}", show_bytes(step.lag_bytes)),
        v1::ShedRung::CostlyStream => format!("holds {}", show_bytes(step.bytes)),
        v1::ShedRung::Unspecified => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    fn step(id: &str, rung: v1::ShedRung, bytes: u64) -> v1::ShedStep {
        v1::ShedStep {
            id: id.to_owned(),
            user: "anna".to_owned(),
            rung: rung.into(),
            bytes,
            ..Default::default()
        }
    }

    fn plan() -> v1::PlanShedResponse {
        let silent_for = Some(prost_types::Duration { seconds: 190, nanos: 0 });
        let stale = step("session/0.1", v1::ShedRung::StaleSession, 40 * 1024);
        let lagging = step("stream/7", v1::ShedRung::LaggingStream, 2048);
        v1::PlanShedResponse {
            steps: vec![
                v1::ShedStep { silent_for, streams: 1, ..stale },
                v1::ShedStep { lag_bytes: 96 * 1024, ..lagging },
                step("stream/8", v1::ShedRung::CostlyStream, 9 * 1024),
            ],
            pressure: v1::Pressure::Critical.into(),
            needed_bytes: 41 * 1024,
            ends_per_tick_max: 16,
            ends_next_tick: 2,
            memory: Some(v1::MemoryStatus { used_bytes: 1000, ceiling_bytes: 1010, ..Default::default() }),
        }
    }

    #[test]
    fn a_step_says_why_it_stands_there_and_whether_it_is_next() {
        let plan = plan();
        let rows: Vec<_> = plan.steps.iter().enumerate().map(|(at, step)| row(&plan, at, step)).collect();
        assert_eq!(rows[0], ["session/0.1", "anna", "", "stale 3m10s, 1 stream", "40 KiB", "ends"]);
        assert_eq!(rows[1], ["stream/7", "anna", "", "lag 96 KiB", "2 KiB", "ends"]);
        assert_eq!(rows[2], ["stream/8", "anna", "", "holds 9 KiB", "9 KiB", ""]);
        let expected =
            "pressure critical: 1000 B used of 1010 B, 41 KiB needed; the next tick ends 2 of 3, 16 at most";
        assert_eq!(heading(&plan), expected);
    }

    #[test]
    fn as_json_each_step_has_its_numbers() {
        let (mut output, out, _) = captured(true);
        output.json(&plan_json(&plan())).unwrap();
        let document: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(document["pressure"], "CRITICAL");
        assert_eq!(document["steps"][0]["rung"], "STALE_SESSION");
        assert_eq!(document["steps"][0]["silent_for_s"], 190.0);
        assert_eq!(document["steps"][1]["lag_bytes"], 96 * 1024);
        let next: Vec<_> = (0..3).map(|at| document["steps"][at]["next_tick"].clone()).collect();
        assert_eq!(next, [true, true, false]);
    }
}
