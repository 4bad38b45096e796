"""The examiner: a guide, questions, exercises by hand and cards, and what a person did with them.

None of it needs torch.
"""
