"""What goes wrong elsewhere, and the tests that it would fail here.

Each failure that ``notes/election-and-membership.md`` has of kazoo (K1 to K31), of tooz, Curator, etcd, consul and
client-go. A test that is renamed or deleted is missed here.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

TABLE = """
K1: a leader that is cut off runs on beside the next one
    faults/test_zookeeper_election.py::test_a_leader_that_is_cut_off_knows_before_its_successor_leads
    faults/test_zk_locks.py::test_a_holder_that_is_cut_off_knows_before_another_holds
    contract/test_election.py::test_run_once_raises_the_loss
K2: after its session a lock believes to be held, and cannot be acquired again
    contract/test_election.py::test_after_its_session_the_same_election_leads_again
    contract/test_zk_lock.py::test_the_end_of_the_session_is_a_loss_and_the_lock_is_good_again
K3: a session that ends in line is requeued without a word
    contract/test_election.py::test_a_session_that_ends_in_line_is_replaced
    contract/test_zk_lock.py::test_a_session_that_ends_in_line_is_replaced_and_that_is_told
K4: cancel() while it leads ends the next run
    contract/test_election.py::test_stop_ends_a_run_in_line_and_not_the_next_one
K5: run() swallows the function's CancelledError
    contract/test_election.py::test_run_raises_what_the_function_raises
K6: cancel() is not heard in a partition
    faults/test_zookeeper_election.py::test_cancelling_is_immediate_in_a_partition
    faults/test_zookeeper_election.py::test_stop_is_heard_in_an_outage
    faults/test_zookeeper_bounded.py::test_what_goes_on_can_be_stopped_in_a_partition
K7: release() and the end of a block wait for the network
    faults/test_zookeeper_election.py::test_leaving_ends_in_time_in_a_partition
    faults/test_zookeeper_bounded.py::test_what_is_held_can_be_left_in_a_partition
K8: timeouts are not kept while disconnected
    faults/test_zookeeper_election.py::test_waiting_ends_in_time_in_a_partition
    faults/test_zookeeper_bounded.py::test_every_verb_ends_in_a_partition
K9: 200 polls leave 200 watchers
    contract/test_election.py::test_two_hundred_polls_leave_no_watches
    faults/test_zookeeper_bounded.py::test_polling_leaves_no_watch
K10: a barrier sleeps through a reconnect
    contract/test_zk_barrier.py::test_a_waiter_survives_a_reconnect_and_a_new_session
    contract/test_zk_barrier.py::test_a_reconnect_is_survived_at_both_ends
    faults/test_zookeeper_election.py::test_a_connection_lost_in_line_costs_nothing
K11: a create whose answer was lost leaves an orphan, or two
    faults/test_zookeeper_election.py::test_one_lost_message_costs_neither_the_term_nor_an_orphan
    faults/test_zookeeper_lost_answers.py::test_nothing_that_is_lost_leaves_anything_behind
K12: (right in kazoo) a lost create is found again by its GUID
    faults/test_zookeeper_election.py::test_one_lost_message_costs_neither_the_term_nor_an_orphan
K13: a lost cleanup blocks everybody
    faults/test_zookeeper_election.py::test_a_lost_cleanup_leaves_no_orphan
    faults/test_zk_locks.py::test_a_lost_cleanup_leaves_no_orphan
K14: a failed transaction is returned, or swallowed
    contract/test_election_transaction.py::test_the_step_that_failed_is_named_and_nothing_is_done
K15: a callback is called twice
    faults/test_election_policy.py::test_an_answer_that_is_told_twice_is_settled_once
    unit/test_kazoo_speed.py::test_an_answer_is_told_once_to_whoever_is_linked_before_or_after
K16: a call in a completion callback hangs the process
    faults/test_election_policy.py::test_a_call_in_a_completion_callback_is_refused
K17: a call in a state listener blocks the connection
    contract/test_election.py::test_a_call_that_could_never_be_answered_is_refused
K18: a watch ends for ever where its parent is made anew
    contract/test_group.py::test_a_stream_outlives_its_group
    contract/test_election_views.py::test_it_survives_new_sessions_and_parents_made_anew
K19: changes of data are not told, and what came and went is told as news
    contract/test_group.py::test_each_change_says_who_joined_left_and_was_updated
    contract/test_group.py::test_a_join_and_a_leave_between_two_looks_is_no_news
K20: a party is participating while nobody is there, and is read one by one
    contract/test_group.py::test_a_member_is_made_anew_in_a_new_session
    contract/test_group.py::test_fifty_members_are_read_in_two_round_trips
    contract/test_group.py::test_who_is_cut_off_does_not_claim_to_know
K21: an interpreter that ends keeps its session for a whole timeout
    faults/test_session_end.py::test_a_program_that_ends_gives_up_its_session
    faults/test_session_end.py::test_sigterm_leaves_the_block_and_ends_the_session
K22: the negotiated timeout is not told
    contract/test_election.py::test_the_negotiated_session_timeout_counts
K23: with enters though nothing was acquired
    contract/test_election.py::test_a_timeout_ends_the_wait_and_leaves_no_candidate
K24: a semaphore leaves listeners, and believes for ever that it holds
    contract/test_zk_semaphore.py::test_polls_leave_no_watches_and_no_listeners
    contract/test_zk_semaphore.py::test_losses_are_told_and_it_is_good_again
K25: a partitioner cannot go on after its session
    contract/test_share.py::test_a_lost_session_ends_the_work_and_begins_anew
K26: a client that is used after a fork hangs
    faults/test_zookeeper_fork.py::test_every_verb_is_refused_in_a_forked_child
    faults/test_zookeeper_fork.py::test_what_the_parent_holds_is_not_the_childs
K27: an election that is called in a watch hangs
    contract/test_election.py::test_a_call_that_could_never_be_answered_is_refused
K28: at 2**31 three hold one lock
    faults/test_election_tokens.py::test_numbers_that_are_used_up_make_no_second_leader
    faults/test_token_order.py::test_tokens_rise_where_the_numbers_are_used_up
    unit/test_znodes.py::test_the_line_is_ordered_by_number_and_not_by_text
K29: servers that were restored suspend a client for ever
    faults/test_zookeeper_restored.py::test_servers_that_went_back_in_time_are_told
K30: addresses are looked up once for all hosts
    unit/test_kazoo_hooks.py::test_an_address_that_has_changed_is_not_waited_for
K31: a lease goes by the wall clocks of hosts
    faults/test_election_policy.py::test_the_wall_clock_is_never_asked
the ghost leader: connected, at a follower that is cut off (notes, 2.4)
    faults/test_ghost_leader.py::test_the_old_term_ends_before_the_new_one_begins
    faults/test_ghost_leader.py::test_where_the_lease_is_not_kept_the_token_refuses_the_ghost
the decision table of lost answers (2.6)
    faults/test_zookeeper_lost_answers.py::test_nothing_that_is_lost_leaves_anything_behind
    faults/test_zookeeper_lost_answers.py::test_a_creation_that_is_made_late_stands_in_nobodys_way
the herd (2.7)
    contract/test_election_herd.py::test_each_hand_over_wakes_one_of_fifty
tooz: an election is a member of its group
    contract/test_group.py::test_only_members_are_members
tooz: a member that expired is never elected again
    contract/test_election.py::test_after_its_session_the_same_election_leads_again
tooz: a restarted member waits for its own session to end
    contract/test_group.py::test_a_restarted_process_has_its_identity_at_once
Curator: the znode of an earlier session is adopted (CURATOR-498, -696)
    contract/test_election.py::test_a_znode_of_an_earlier_session_is_not_adopted
    contract/test_zk_lock.py::test_a_znode_of_an_earlier_session_is_not_adopted
Curator: an interrupt between a creation and its bookkeeping (CURATOR-62)
    contract/test_election.py::test_an_interrupted_contender_is_gone
    faults/test_zookeeper_election.py::test_a_cancelled_contender_is_gone
    faults/test_zookeeper_election.py::test_a_second_interrupt_does_not_keep_the_place_in_line
Curator, client-go: the next leads before the old one's work has ended
    contract/test_election_order.py::test_whoever_is_evicted_ends_its_work_before_the_next_leads
    contract/test_roles.py::test_a_backup_follows_the_primary_and_takes_its_place
Curator: members flap at every reconnect
    contract/test_group.py::test_a_reconnect_changes_nothing
Curator: writes of a former leader (CURATOR-542)
    contract/test_election_transaction.py::test_a_ghost_is_refused_by_the_servers
Curator: a double barrier is passed by a spurious wake-up (GH-1290)
    contract/test_zk_barrier.py::test_one_too_many_waits_for_the_next_round
etcd: who waited leads, though its own key is gone
    contract/test_election.py::test_taking_over_fails_if_our_znode_went_meanwhile
consul: a time stands for a fence, and every election of the servers drops all locks
    contract/test_roles.py::test_a_primary_that_lost_its_session_is_fenced_and_follows
    faults/test_election_policy.py::test_a_blip_is_outlived_by_the_session_policy
consul, etcdctl: work that goes on after the loss
    contract/test_election.py::test_a_loss_is_told_at_the_end_of_the_block_at_the_latest
"""


def rows() -> dict[str, list[str]]:
    """Return the tests by failure."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in TABLE.strip().splitlines():
        if line.startswith(" "):
            names.append(line.strip())
        else:
            names = found[line] = []
    return found


ROWS = rows()
KAZOO = [int(match[1]) for each in ROWS if (match := re.match(r"K(\d+): ", each))]


@cache
def functions(file: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((TESTS / file).read_text())
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return {each.name: each for each in tree.body if isinstance(each, kinds)}


@pytest.mark.parametrize("failure", ROWS)
def test_there_is_a_test_that_it_would_fail(failure: str) -> None:
    assert ROWS[failure]
    for name in ROWS[failure]:
        file, _, function = name.partition("::")
        assert function in functions(file), f"{failure}: {name} is gone"


def test_none_is_left_out() -> None:
    assert list(range(1, 32)) == KAZOO


def test_a_test_that_says_what_it_is_for_is_told_from_others() -> None:
    """Tests name the failures that they are for; of these all are, but for two that whole files are for."""
    said: set[int] = set()
    for path in sorted(TESTS.glob("*/test_*.py")):
        for function in functions(str(path.relative_to(TESTS))).values():
            said |= {int(number) for number in re.findall(r"\bK(\d+)\b", ast.get_docstring(function) or "")}
    assert set(KAZOO) - said == {29}
    assert said <= set(KAZOO)
