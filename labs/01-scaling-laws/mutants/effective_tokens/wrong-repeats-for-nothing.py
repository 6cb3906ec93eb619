# caught by: test_a_pass_is_worth_less_than_the_one_before
# exercise: effective_tokens
def effective_tokens(unique, total, R):
    return min(unique, total)
