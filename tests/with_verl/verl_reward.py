"""A reward function as verl's users write them (`reward.custom_reward_function`)."""

from appo.environments.kinship import final_answer


def score_answer(data_source, solution_str, ground_truth, extra_info=None, **others):
    return float(final_answer(solution_str) == ground_truth)
