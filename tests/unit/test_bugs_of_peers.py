"""The bugs of other lock libraries, by the numbers of ``notes/locks.md`` (section 2), and the tests that they fail.

The notes are not part of this repository; what each bug is stands here in a few words. A bug without a test, or a test
that is gone, fails here. What is no bug of a lock that could be tested is in ``NO_TEST``, with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

BUGS: dict[str, tuple[str, str]] = {
    # -- redis-py
    "R1": (
        "a lost answer to SET NX: the lock waits for itself",
        "faults/test_lock.py a_lost_answer_to_acquire_costs_nothing",
    ),
    "R2": ("a lost answer to a release is an error", "faults/test_lock.py a_lost_answer_to_release_is_no_loss"),
    "R3": ("a release that failed cannot be repeated", "faults/test_lock.py a_release_without_an_answer_is_seen_to"),
    "R4": ("another thread cannot release", "faults/test_lock.py a_lease_may_be_given_back_by_another_thread"),
    "R5": ("a late task releases the next one's", "contract/test_lock.py the_late_one_does_not_release_the_next"),
    "R6": ("a cancelled acquire leaves the key", "faults/test_every_kind.py cancelled_at_every_await_of_acquire"),
    "R7": ("timeout=0 means for ever", "unit/test_arguments.py a_ttl_that_no_server_can_keep"),
    "R8": ("gives up a pause too early", "contract/test_lock.py a_timeout_is_kept"),
    "R9": ("hides the body's error", "contract/test_lock.py the_bodys_own_error_wins"),
    "R10": ("a heartbeat adds up the ttl", "contract/test_lock.py max_hold_bounds_what_the_server_keeps"),
    "R11": ("ids that can be guessed", "faults/test_lock.py a_forked_child_makes_ids_of_its_own"),
    "R12": ("polls, in no order, and tells nobody", "contract/test_waiting.py first_come_first_served"),
    "R13": ("the block runs without the lock", "contract/test_lock.py hold_waits_and_gives_up"),
    # -- python-redis-lock
    "P1": ("timeout=0.5 is for ever", "contract/test_lock.py a_timeout_is_kept"),
    "P2": ("BLPOP beyond the socket's timeout", "faults/test_lock.py waiting_longer_than_the_clients_own_timeout"),
    "P3": (
        "the wake-up dies with who was woken",
        "faults/test_waiting.py whoever_is_killed_when_it_is_woken_costs_one_claim",
    ),
    "P4": (
        "a paused waiter misses the signal",
        "faults/test_waiting.py stopped_waiters_cost_a_claim_each_and_not_a_ttl",
    ),
    "P5": ("an expiry wakes nobody", "contract/test_waiting.py the_holders_end_is_noticed_by_who_waits"),
    "P6": (
        "each wake-up begins the timeout anew",
        "contract/test_waiting.py whoever_gets_it_meanwhile_does_not_stretch_the_wait",
    ),
    "P7": ("one error ends renewal, and nobody is told", "faults/test_lock.py a_lost_answer_to_a_renewal_is_no_loss"),
    "P8": ("after a loss the lock cannot be used again", "faults/test_lock.py a_restarted_server_that_forgot_the_lock"),
    "P9": (
        "a forked child releases its parent's",
        "faults/test_every_kind.py a_forked_child_holds_nothing_and_waits_for_itself",
    ),
    "P10": ("keys in different slots", "contract/test_semaphore.py wherever_redis_is_deployed"),
    "P11": ("a thread for each lock", "faults/test_renewal.py thousands_are_renewed_in_a_few_pipelines"),
    # -- pottery
    "T1": ("no renewal", "contract/test_quorum.py it_is_renewed_while_it_is_held"),
    "T2": (
        "an extension that came too late counts",
        "faults/test_lock.py a_renewal_that_is_answered_too_late_renews_nothing",
    ),
    "T3": ("a cancelled acquire leaves votes", "faults/test_quorum.py a_cancelled_acquire_leaves_nothing"),
    "T4": ("waits for all servers", "faults/test_quorum.py a_minority_that_is_away_delays_nobody"),
    "T5": ("a late vote after the release", "faults/test_quorum.py late_votes_are_given_back"),
    "T6": ("attempts share an id", "sim/test_quorum_model.py the_model_kills"),
    "T7": ("hides the body's error", "contract/test_lock.py the_bodys_own_error_wins"),
    "T8": ("locked() speaks of the object", "contract/test_inspection.py the_holder_is_told"),
    "T9": ("a log entry per server and failure", "faults/test_quorum.py a_minority_that_is_down_floods_no_log"),
    # -- aioredlock
    "aioredlock extend": ("extending takes it again", "contract/test_quorum.py a_renewal_never_makes_a_key_again"),
    "aioredlock watchdog": (
        "cancels itself in the middle",
        "faults/test_lock.py whoever_cancels_every_task_does_not_end_renewal",
    ),
    "aioredlock task": (
        "a cleanup that nobody refers to",
        "unit/test_runtimes.py background_work_begins_when_who_spawned_it_knows_of_it",
    ),
    # -- sherlock
    "sherlock None": ("expire=None deletes the key", "unit/test_arguments.py a_ttl_that_is_no_number"),
    "sherlock 0.5": ("expire=0.5 locks for ever", "contract/test_lock.py without_renewal_it_ends_and_says_so"),
    "sherlock timeout": ("counts its pauses only", "faults/test_lock.py a_slow_line_does_not_stretch_the_wait"),
    "sherlock del": ("releases in __del__", "contract/test_lock.py a_lease_that_nobody_keeps_is_held_on"),
    # -- tooz
    "tooz retries": ("each retry is another contender", "faults/test_lock.py a_lost_request_costs_nothing"),
    "tooz heartbeat": (
        "held, it says, during an outage",
        "faults/test_lock.py a_paused_server_ends_no_lease_early_and_none_late",
    ),
    "tooz threads": ("a shared object mixes up its holders", "contract/test_lock.py one_lock_serves_many"),
    "tooz break": ("DEL, and no token", "contract/test_inspection.py breaking_fences_the_holder_off"),
    # -- redislock
    "redislock error": (
        "an error leaves the key",
        "faults/test_lock.py what_a_hanging_server_may_have_granted_is_given_back",
    ),
    "redislock slow": (
        "a grant that is nearly over",
        "unit/test_late_grants.py an_answer_that_took_longer_than_the_ttl_is_given_back",
    ),
    "redislock fence": ("a bare INCR falls", "contract/test_lock.py tokens_rise_although_the_server_forgets"),
    # -- redsync
    "redsync ambiguous": (
        "a lost answer is a refusal",
        "faults/test_quorum.py a_vote_whose_answer_was_lost_is_no_refusal",
    ),
    "redsync extend": ("extending makes it again", "contract/test_lock.py a_renewal_never_makes_a_lock_again"),
    "redsync fail fast": (
        "what lands after the unlock",
        "faults/test_quorum.py what_could_not_be_given_back_yet_is_given_back",
    ),
    # -- rueidislock
    "rueidislock clock": (
        "ends by the client's clock",
        "faults/test_client_clocks.py they_wait_and_hold_like_all_others",
    ),
    "rueidislock one deployment": ("its servers are one", "contract/test_quorum.py a_server_that_is_there_twice"),
    "rueidislock busy": ("100 % of a core", "contract/test_lock.py a_key_without_expiry_is_not_asked_for_in_a_hurry"),
    # -- Redisson
    "Redisson getToken": (
        "a late holder gets the next one's token",
        "contract/test_lock.py the_late_one_does_not_release_the_next",
    ),
    "Redisson re-entry": ("the outer token grows stale", "contract/test_reentrant.py the_last_release_gives_it_back"),
    "Redisson delete": ("the counter goes back", "contract/test_lock.py tokens_rise_although_the_server_forgets"),
    "Redisson counters": ("25 million keys without expiry", "contract/test_lock.py a_renewal_keeps_the_counter_too"),
    "Redisson ttl": ("the ttl of somebody else", "contract/test_waiting.py a_lease_that_was_handed_on_lasts"),
    "Redisson FairLock": (
        "deadlines by the clients' clocks",
        "faults/test_client_clocks.py they_wait_and_hold_like_all_others",
    ),
    "Redisson dead waiters": (
        "five seconds each",
        "faults/test_waiting.py thousands_who_died_in_one_process_cost_one_message",
    ),
    "Redisson watchdog": (
        "outlives the unlock",
        "faults/test_lock_changes_hands.py a_renewal_on_its_way_does_not_follow_a_handover",
    ),
    "Redisson BUSY": ("one BUSY ends renewal", "faults/test_renewal.py a_server_that_is_busy_ends_no_renewal"),
    "Redisson wake-ups": ("missed", "faults/test_waiting.py a_lost_message_costs_one_ask"),
    "Redisson WAIT": (
        "one replica of two will do",
        "contract/test_waiting.py one_copy_of_two_is_not_enough",
    ),
    "Redisson permits": ("die with their holder", "contract/test_semaphore.py expired_permits_are_used_again"),
    "Redisson RedLock": (
        "no validity time",
        "faults/test_quorum.py a_paused_majority_ends_the_lease_at_its_own_deadline",
    ),
    # -- what nobody gets right
    "eviction": (
        "of the lock, or of the counter",
        "faults/test_every_kind.py an_early_end_is_told_and_somebody_else_may_have_it",
    ),
}

NO_TEST = {
    "T10": "pottery's NextID is right; it is no lock",
    "aioredlock get_lock": "we have no call that wants equal ttls of all servers; QuorumLock has no inspection",
    "redsync Unlock": "what a release says is tested with R2",
}


@pytest.mark.parametrize("bug", BUGS)
def test_it_is_a_test_here(bug: str) -> None:
    path, name = BUGS[bug][1].split(" ")

    assert f"def test_{name}(" in (TESTS / path).read_text("utf-8")
