"""What notebooks show that is longer than a plot: results, what lies behind them, and things to play with.

Results: `rows` one by one, `seeds` and `pairs` of them, `published` curves beside them, `breakdowns`, in no mean;
`claims` with verdicts, and how often these err (`rule_errors`); `summary` and `documents`, the tables. Behind them:
`starts`, `efficiency`, `held` and `crossed` ask about critics, `steps`, `handover` and `latents` about steps, `causes`
about what went wrong. What it takes: `headline`, `cost`, `speed`. To play with: `explore`, `ranking`, and `controls`.
"""
