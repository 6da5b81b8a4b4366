//! Removes what every registered subscription has finished, and nothing else:
//! trimming by length would delete what a slow one still needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::Lane;
use super::{Redis, script};
use crate::error::Error;
use crate::fault;

/// Finished entries stay so long for those who watch the stream of events.
const GRACE_MS: &str = "2000";

pub(super) async fn run(redis: &Redis, lanes: &[Lane]) -> Result<(), Error> {
    let mut groups: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for lane in lanes {
        for stream in lane.mains() {
            groups
                .entry(stream.key.clone())
                .or_default()
                .push(lane.group.clone());
        }
    }
    let calls: Vec<_> = groups
        .iter()
        .map(|(stream, groups)| {
            let mut args = vec![GRACE_MS];
            args.extend(groups.iter().map(|group| &**group));
            script::Call {
                script: &script::TRIM,
                keys: vec![stream],
                args,
            }
        })
        .collect();
    fault::point!("trim.before");
    for answer in redis.link.shared().scripts(&calls).await? {
        answer?;
    }
    fault::point!("trim.after");
    Ok(())
}
