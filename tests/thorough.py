"""What `make test` leaves to `make thorough`: tests that take long for what they add to their neighbours.

They start many processes or a browser, play another case of what a shorter test plays, or repeat at length what is
shown once. Each room keeps some of every kind in `make test`, among them the planted bugs. A name without brackets
stands for all cases of the test.
"""

from __future__ import annotations

__all__ = ["THOROUGH", "is_thorough"]

THOROUGH: dict[str, tuple[str, ...]] = {
    "tests/analytics/test_installing.py": (
        "test_of_two_nodes_on_one_postgres_only_the_one_that_answered_stores_its_requests[plain]",
    ),
    "tests/analytics/test_report.py": ("test_a_period_without_requests_has_an_empty_report",),
    "tests/analytics/test_storing.py": ("test_every_column_is_stored_as_it_was_given",),
    "tests/analytics/test_tracking.py": ("test_analytics_needs_no_web_framework",),
    "tests/browser/test_live.py": (
        "test_a_rewind_shows_first_what_it_will_do",
        "test_a_script_in_the_data_never_runs",
        "test_a_subscription_is_paused_and_resumed",
        "test_parked_events_are_replayed_and_discarded",
        "test_updates_can_be_paused",
        "test_what_may_be_old_is_told_to_be_old",
        "test_what_the_reader_opened_and_focused_stays_so_while_the_page_changes",
        "test_what_was_done_is_on_record",
    ),
    "tests/browser/test_reach.py": (
        "test_a_name_that_was_pointed_at_this_machine_is_refused",
        "test_a_page_of_another_origin_can_do_nothing",
        "test_a_page_that_does_none_of_it_is_found_out",
        "test_every_page_is_labelled_and_fits[1280]",
        "test_pages_and_forms_work_without_scripts",
        "test_the_colours_that_were_chosen_stay",
        "test_the_first_stop_of_the_keyboard_skips_the_navigation",
        "test_the_keyboard_alone_pauses_a_subscription",
        "test_the_menu_of_a_phone_opens_and_closes",
        "test_who_has_no_token_signs_in_first",
    ),
    "tests/cli/test_actions.py": ("test_they_are_listed_by_subject_and_number",),
    "tests/cli/test_append.py": (
        "test_a_condition_does_not_mind_what_was_known",
        "test_an_append_of_a_file_has_a_condition_for_all_of_it",
    ),
    "tests/cli/test_dashboard.py": ("test_it_tells_its_address_and_ends_while_somebody_watches",),
    "tests/cli/test_demo.py": (
        "test_a_file_can_be_shown_instead",
        "test_a_miscount_fails_the_demo",
        "test_an_event_that_never_comes_is_reported_after_the_deadline",
        "test_signals_end_the_demo_early[15-143]",
        "test_the_demo_can_be_run_again_and_leaves_its_log_to_be_read",
        "test_the_demo_explains_itself_and_says_what_to_try_next",
        "test_without_a_dsn_the_demo_runs_on_the_embedded_postgres",
    ),
    "tests/cli/test_dev.py": (
        "test_a_killed_supervisor_is_replaced_under_the_same_dsn",
        "test_dev_serves_until_it_is_asked_to_stop[15-0]",
        "test_migrate_without_a_dsn_migrates_the_embedded_server",
        "test_without_a_dsn_commands_use_the_embedded_server_and_leave_nothing_running",
    ),
    "tests/cli/test_import_export.py": (
        "test_events_without_a_stream_stay_without_one_in_their_order",
        "test_standard_input_is_read_with_a_format",
    ),
    "tests/cli/test_metrics.py": ("test_work_answers_prometheus_on_loopback",),
    "tests/cli/test_nodes.py": (
        "test_a_node_that_runs_is_listed_with_its_lease_and_what_it_holds",
        "test_a_reader_that_leaves_ends_watching_quietly",
        "test_a_watched_node_that_dies_is_shown_as_expired",
        "test_sigterm_ends_watching_without_a_word",
    ),
    "tests/cli/test_parked.py": ("test_events_are_given_up_after_confirmation_and_stay_listed",),
    "tests/cli/test_processes.py": (
        "test_a_full_disk_under_standard_output_has_a_name[export -]",
        "test_a_process_says_what_is_wrong_with_its_application",
        "test_a_schema_given_to_work_is_the_store_s",
        "test_a_second_signal_stops_at_once",
        "test_a_worker_with_nothing_to_deliver_to_says_what_to_do",
        "test_bytes_that_are_no_text_are_refused_as_a_name",
        "test_closed_standard_streams_are_empty_ones[<&--args0-2-nothing to append]",
        "test_closed_standard_streams_are_empty_ones[<&--args1-2-there is no header]",
        "test_closed_standard_streams_are_empty_ones[>&--args3-0-]",
        "test_closed_standard_streams_are_empty_ones[2>&--args4-6-]",
        "test_closed_standard_streams_are_empty_ones[<&- >&- 2>&--args5-0-]",
        "test_ctrl_c_while_waiting_for_stdin_appends_nothing",
        "test_debug_shows_where_the_application_failed",
        "test_handlers_get_the_grace_that_was_given",
        "test_json_is_utf_8_whatever_the_locale_says",
        "test_sigterm_ends_tail_without_a_word",
        "test_tail_prints_history_and_then_what_comes",
        "test_tail_wants_only_what_its_selector_matches",
        "test_without_an_application_sinks_are_delivered_to",
        "test_work_refuses_a_dsn_for_a_store_that_has_its_own",
        "test_work_runs_the_handlers_until_sigterm[shop:make]",
        "test_work_says_at_start_who_runs_what_where",
    ),
    "tests/cli/test_pubsub.py": (
        "test_a_reader_that_leaves_ends_subscribe_quietly",
        "test_ctrl_c_while_waiting_for_stdin_keeps_what_was_sent",
        "test_json_lines_name_topic_and_message",
        "test_messages_for_a_dispatcher_of_an_application_are_shown",
        "test_models_and_tuples_of_an_application_are_shown_as_json",
        "test_sigterm_ends_subscribe_without_a_word",
    ),
    "tests/cli/test_session.py": ("test_the_environment_says_where_the_store_is",),
    "tests/cli/test_streams.py": (
        "test_on_a_terminal_it_asks[delete-y-0-left0]",
        "test_on_a_terminal_it_asks[tombstone-y-0-left0]",
    ),
    "tests/cli/test_subscription.py": (
        "test_a_node_that_runs_gives_its_partitions_back_for_a_resize",
        "test_a_rewind_asks_first",
        "test_a_rewind_says_where_to_and_how_many_parked_events_it_forgot",
        "test_of_all_subscriptions_those_created_later_are_seen_too",
        "test_the_lag_is_told_whenever_it_has_changed",
    ),
    "tests/cli/test_top.py": ("test_on_a_terminal_q_ends_it_and_gives_the_terminal_back",),
    "tests/evidence/test_tampering.py": ("test_without_seals_what_could_have_been_written_that_way_is_not_found",),
    "tests/hunt/test_append_races.py": (
        "test_cancelling_calls_anywhere_leaves_nothing_behind_and_loses_nobody",
        "test_of_racers_on_one_condition_never_two_win[4]",
        "test_single_append_transactions_of_every_form_never_deadlock",
        "test_the_same_race_catches_a_condition_without_stripes[lock_stripes_v1]",
        "test_writers_with_exact_versions_and_with_any_share_streams[4]",
    ),
    "tests/hunt/test_missed_events.py": ("test_killing_the_listening_connection_under_load_loses_nothing",),
    "tests/hunt/test_pubsub_nodes.py": ("test_a_listener_cut_again_and_again_comes_back_and_hears_what_comes_later",),
    "tests/hunt/test_subscription_nodes.py": (
        "test_a_file_replayed_through_four_processes_folds_to_what_the_file_says",
        "test_a_node_that_is_asked_to_stop_ends_what_it_has_in_hand_and_the_next_goes_on",
        "test_a_node_that_was_halted_can_write_nothing_and_gets_partitions_again",
        "test_a_policy_that_halts_stops_the_partitions_of_what_failed_and_no_others",
        "test_parked_keys_survive_kills_also_in_the_middle_of_their_replay",
        "test_resizing_under_load_loses_repeats_and_inverts_nothing",
        "test_the_same_hunt_catches_writes_without_a_fence",
        "test_whatever_a_handler_does_wrong_is_recorded_and_holds_back_its_own_stream_only",
    ),
    "tests/hunt/test_tracker_nodes.py": (
        "test_a_node_that_was_stopped_goes_and_comes_back_as_the_same_with_its_presences",
        "test_nodes_cut_off_from_each_other_agree_again_afterwards",
        "test_the_presences_of_a_killed_node_leave_after_its_down_period",
    ),
    "tests/log/test_append.py": ("test_cancelling_an_append_again_and_again_leaves_the_callers_transaction_usable",),
    "tests/log/test_coalescing.py": (
        "test_appends_to_several_streams_that_wait_leave_connections_too",
        "test_appends_waiting_for_as_many_streams_as_there_are_connections_leave_some_for_the_rest",
        "test_appends_whose_database_is_gone_wait_for_it_side_by_side",
        "test_conditions_that_wait_leave_connections_too",
        "test_large_events_fill_a_batch_by_their_size",
        "test_two_appends_to_one_stream_never_share_a_batch_and_keep_their_order",
    ),
    "tests/log/test_conditions.py": (
        "test_a_condition_breaks_by_the_first_event_that_its_selector_matches",
        "test_of_many_concurrent_conditional_appends_exactly_one_wins",
    ),
    "tests/log/test_idempotency.py": (
        "test_duplicates_at_the_same_moment_are_stored_once_whatever_their_order",
        "test_two_stores_that_append_the_same_at_the_same_moment_get_the_same_result",
    ),
    "tests/log/test_payloads.py": (
        "test_sql_takes_every_text_that_python_writes",
        "test_the_cheap_test_of_a_json_text_lets_nothing_pass_that_the_thorough_one_refuses",
    ),
    "tests/log/test_streams.py": ("test_a_subscription_behind_a_scavenged_range_goes_on_after_it",),
    "tests/operating/test_backup.py": (
        "test_a_store_that_was_restored_elsewhere_goes_on_where_the_dump_was_taken",
        "test_an_empty_store_is_restored_with_its_sequence_not_called_yet",
    ),
    "tests/operating/test_failover.py": (
        "test_a_standby_serves_streams_and_refuses_the_feed_and_appends_by_name",
        "test_events_that_an_asynchronous_standby_lost_hide_none_that_come_after_them",
    ),
    "tests/operating/test_poolers.py": (
        "test_a_frozen_projection_behind_a_pooler_is_ended_after_a_lease",
        "test_migrating_through_it_leaves_nothing_on_its_backends",
        "test_no_reader_behind_a_pooler_misses_an_event[polling]",
        "test_nodes_behind_a_pooler_that_are_killed_lose_and_invert_nothing",
    ),
    "tests/operating/test_upgrades.py": ("test_a_plan_locks_nothing_and_waits_for_nobody",),
    "tests/pubsub/test_postgres.py": ("test_messages_of_each_task_arrive_in_their_order",),
    "tests/security/test_roles.py": (
        "test_a_migrator_makes_a_new_schema_that_the_roles_can_use_at_once",
        "test_the_sql_is_for_older_servers_too",
        "test_what_a_later_migration_brings_belongs_to_the_owner_and_is_granted[superuser]",
        "test_who_may_create_roles_and_owns_the_schema_needs_no_superuser",
    ),
    "tests/security/test_secrets.py": (
        "test_a_store_that_loses_its_server_logs_no_password",
        "test_no_operation_of_the_library_shows_a_password[migrate]",
    ),
    "tests/simulation/test_simulation.py": (
        "test_a_planted_bug_is_noticed[Ownerless]",
        "test_a_planted_bug_is_noticed[Sliding]",
        "test_a_planted_bug_is_noticed[Unraised]",
        "test_a_planted_bug_is_noticed[highest]",
        "test_a_planted_bug_is_noticed[uncut]",
        "test_a_planted_bug_is_noticed[unending]",
        "test_any_history_is_safe_and_ends_with_everything_handled[3]",
        "test_any_history_is_safe_and_ends_with_everything_handled[4]",
        "test_any_history_is_safe_and_ends_with_everything_handled[5]",
        "test_any_history_is_safe_and_ends_with_everything_handled[6]",
        "test_any_history_is_safe_and_ends_with_everything_handled[7]",
        "test_any_history_is_safe_and_ends_with_everything_handled[8]",
        "test_any_history_is_safe_and_ends_with_everything_handled[9]",
        "test_histories_hold_all_that_can_happen",
    ),
    "tests/subscriptions/test_batches.py": ("test_later_events_of_a_culprits_key_queue_behind_it",),
    "tests/subscriptions/test_failures.py": (
        "test_a_crash_of_the_emitter_itself_is_survived",
        "test_a_halted_partition_leaves_the_others_running",
    ),
    "tests/subscriptions/test_kill.py": ("test_a_worker_killed_half_way_and_restarted_misses_nothing",),
    "tests/subscriptions/test_lent_connections.py": (
        "test_an_event_that_kills_its_connection_is_parked_and_its_neighbours_are_not",
    ),
    "tests/subscriptions/test_outlets.py": ("test_a_node_with_a_handler_is_preferred",),
    "tests/subscriptions/test_partitions.py": (
        "test_no_resize_loses_an_event_or_delivers_one_again",
        "test_the_shares_of_all_candidates_add_up_to_the_pool",
    ),
    "tests/subscriptions/test_pools.py": (
        "test_a_policy_that_is_changed_under_load_loses_and_inverts_nothing",
        "test_resizing_under_load_loses_doubles_and_inverts_nothing",
        "test_waiting_covers_partitions_without_an_event",
    ),
    "tests/subscriptions/test_progress.py": ("test_a_planted_bug_is_caught[NeverScans]",),
    "tests/subscriptions/test_projections.py": (
        "test_a_projection_that_freezes_is_cut_after_its_lease_and_counts_as_failed",
    ),
    "tests/subscriptions/test_run.py": (
        "test_a_restart_goes_on_after_the_checkpoint",
        "test_an_event_that_was_not_handled_is_delivered_again_after_a_restart",
        "test_leaving_the_block_at_any_moment_ends_run",
        "test_two_nodes_share_out_partitions_and_never_run_one_together",
    ),
    "tests/test_embedded.py": ("test_asyncpg_takes_the_dsn",),
    "tests/test_importing.py": ("test_rows_derive_distinct_ids_that_come_again_and_stay_when_the_file_grows",),
    "tests/test_registry.py": (
        "test_a_registry_with_a_bug_differs_from_the_model[RestartsTheDoomed]",
        "test_a_registry_with_a_bug_differs_from_the_model[NeverRetries]",
        "test_a_registry_with_a_bug_differs_from_the_model[ForgetsToRemove]",
        "test_a_registry_with_a_bug_differs_from_the_model[CountsTheLiving]",
        "test_a_start_that_dies_with_whom_was_cancelled_is_caught",
    ),
    "tests/test_store.py": ("test_a_supervisor_killed_with_its_server_is_started_again_under_an_open_store",),
    "tests/test_typed_events.py": ("test_reading_never_changes_the_data",),
    "tests/tracker/test_deltas.py": (
        "test_pieces_say_the_same_and_lost_ones_are_asked_for",
        "test_who_is_answered_from_a_generation_misses_nothing",
    ),
    "tests/tracker/test_protocol.py": (
        "test_a_malformed_message_raises_value_errors_only_and_changes_nothing",
        "test_what_is_said_is_read_as_what_was_meant",
    ),
    "tests/tracker/test_simulation.py": (
        "test_a_planted_bug_is_noticed[Unforgiving-still misses]",
        "test_a_planted_bug_is_noticed[Resentful-still misses]",
        "test_a_planted_bug_is_noticed[Patient-in vain]",
        "test_any_history_is_safe_and_ends_in_agreement[3]",
        "test_any_history_is_safe_and_ends_in_agreement[8]",
        "test_any_history_is_safe_and_ends_in_agreement[9]",
        "test_histories_hold_all_that_can_happen",
    ),
    "tests/tracker/test_state.py": (
        "test_a_state_is_as_small_after_churn_as_before",
        "test_any_history_obeys[order_does_not_matter]",
        "test_any_history_obeys[a_union_is_its_parts]",
        "test_any_history_obeys[again_changes_nothing]",
        "test_the_reference_catches_a_planted_bug[WithoutCloud-7]",
        "test_the_reference_catches_a_planted_bug[Resurrecting-5]",
    ),
    "tests/tracker/test_tracker.py": (
        "test_a_transfer_of_thousands_of_presences_comes_in_parts",
        "test_presences_too_large_for_one_message_are_sent_in_several[postgres]",
        "test_ten_thousand_presences_that_came_and_went_leave_nothing",
    ),
}


def is_thorough(node: str) -> bool:
    """Whether the test of this node id is one of them."""
    path, _, name = node.partition("::")
    listed = THOROUGH.get(path, ())
    return name in listed or name.partition("[")[0] in listed
