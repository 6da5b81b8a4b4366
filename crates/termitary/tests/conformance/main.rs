//! The promises of every broker, as sentences: each runs over each broker, through the real engine,
//! on a manual clock. `model` compares random histories with a reference.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod crashes;
mod delivery;
mod keeping;
mod ledger;
mod model;
mod names;
mod panics;
mod process;
mod schedules;
mod shutdown;
mod stand;
mod unreadable;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use termitary::prelude::*;

/// The suite, for one broker. A sentence that is missing here is dead code,
/// and does not pass clippy.
macro_rules! suite {
    ($broker:ident) => {
        sentences! { $broker:
            delivery {
                every_subscription_gets_each_event_once
                a_transactional_event_is_real_when_its_transaction_commits_or_never
                what_was_published_before_any_worker_started_waits_for_one
                a_delayed_event_waits_for_its_time
                an_event_with_an_id_of_its_own_is_recorded_once
                an_idempotency_id_belongs_to_one_event_name
                an_error_is_retried_after_its_wait_and_counted
                a_permanent_error_is_a_dead_letter_at_once_and_runs_again_on_replay
                a_panic_is_an_error_of_its_delivery_only
                a_handler_over_its_timeout_is_cancelled_and_counted
                a_snooze_uses_up_no_attempt
                an_undecodable_payload_is_parked_alone_and_never_quoted
                a_newer_version_is_parked_by_an_old_worker_and_released_by_a_new_one
                a_broadcast_reaches_every_listener
            }
            bounds {
                an_errors_text_is_cut_with_a_note_of_its_length
                a_snooze_for_no_time_waits_for_a_second
                a_payload_that_no_reader_can_decode_is_refused_at_publish
                a_key_of_more_than_a_kibibyte_is_refused_at_publish
            }
            crashes {
                a_worker_that_vanished_is_taken_over_and_its_loss_counts_as_a_crash
                what_takes_two_workers_down_while_alone_is_quarantined
                one_death_while_alone_is_thin_evidence
                other_workers_go_on_while_a_suspect_runs_alone
                a_crowd_of_suspects_and_other_work_take_turns
            }
            keeping {
                the_retained_past_reaches_a_new_subscription_once_whoever_dies_meanwhile
                a_replay_takes_each_letter_once_however_fast_it_dies_again
                what_comes_late_or_out_of_its_order_is_found_all_the_same
                finished_events_are_forgotten_after_a_week_and_unfinished_ones_never
                the_idempotency_key_is_the_same_in_every_run_and_the_fence_rises
                a_worker_of_unknown_handlers_holds_what_it_can_begin
                a_worker_whose_handlers_turn_slow_gives_back_what_it_cannot_begin
                two_workers_of_one_place_each_share_two_events_of_one_commit
                a_worker_stops_what_was_dropped_under_it_and_runs_the_rest
            }
            ledger {
                effects_new_events_and_done_commit_together
                an_error_after_the_commit_cannot_undo_done
                returning_ok_with_an_open_transaction_is_an_error
                a_worker_that_lost_its_lease_cannot_commit
                a_worker_that_lost_its_lease_changes_nothing_however_it_ends
            }
            panics {
                a_panic_while_decoding_costs_an_attempt_and_no_place
                a_panic_while_extracting_costs_an_attempt_and_no_place
                a_cancelled_handler_that_panics_when_dropped_costs_an_attempt_and_no_place
                an_error_whose_text_panics_costs_an_attempt_and_no_place
                a_panic_whose_value_panics_costs_an_attempt_and_no_place
            }
            schedules {
                two_workers_publish_one_event_per_tick
                a_schedule_publishes_the_event_that_it_makes
                missed_ticks_are_caught_up_with_the_latest_only
                an_edited_rule_neither_repeats_nor_catches_up
                a_paused_schedule_skips_and_resumes_without_catching_up
            }
            names {
                a_subscription_that_moved_parks_what_is_left_of_the_other_event
                a_renamed_event_is_handled_by_old_and_new_code_side_by_side
                a_retry_keeps_the_name_that_its_event_was_published_under
                two_running_workers_cannot_handle_two_events_under_one_name
            }
            unreadable {
                a_row_that_cannot_be_read_is_parked_alone
                a_row_spoilt_while_its_worker_dies_is_parked_alone
                a_suspect_that_cannot_be_read_is_parked_and_the_others_run
                a_lease_without_an_end_is_taken_back
                a_delivery_in_an_unknown_state_is_no_letter
                rows_beside_events_that_cannot_be_read_keep_nobody_waiting
            }
            shutdown {
                shutdown_lets_running_handlers_finish_and_releases_the_rest
                a_handler_that_outlives_the_grace_is_released_without_an_attempt
                an_idle_worker_stops_at_once
            }
        }
    };
}

macro_rules! sentences {
    ($broker:ident: $($module:ident { $($sentence:ident)* })*) => {
        mod $broker { $(
            mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $sentence() {
                    crate::$module::$sentence(crate::stand::Stand::$broker().await).await;
                }
            )* }
        )* }
    };
}

suite!(sqlite);
suite!(redis);
suite!(postgres);
suite!(postgres_and_redis);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub(crate) n: u32,
}

impl Event for Ping {
    const NAME: &'static str = "ping.sent";
}

/// The events that handlers saw.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn add(&self, what: impl std::fmt::Display) {
        self.0.lock().unwrap().push(what.to_string());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
