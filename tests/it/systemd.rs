//! The units under a real systemd.

use crate::util::machine::machine;

#[test]
fn the_units_have_no_mistakes_and_little_exposure() {
    let Some(machine) = machine() else { return };
    let complaints = machine.run(
        "systemd-analyze verify /etc/systemd/system/sds-agent.service \
         /etc/systemd/system/sds-agent.socket 2>&1",
    );
    assert_eq!(complaints, "");

    let verdict =
        machine.run("systemd-analyze security --offline=true sds-agent.service | tail -n 1");
    let exposure = verdict
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure < 1.5), "{verdict}");
}
