"""Reports: what an operator wants to know, as data. The command line prints them, a dashboard shows them.

- `eventstore.reports.health`: the checks of ``eventstore doctor``, and `examine`, which runs them;
- `eventstore.reports.site`: the database a report is about;
- `eventstore.reports.server`, `installed`, `horizon`, `links`, `delivery`: the checks, by what they are about;
- `eventstore.reports.explaining`: how a selector is served;
- `eventstore.reports.overview`: what ``eventstore top`` shows;
- `eventstore.reports.subscriptions`, `streams`, `topics`: pages of them, and each in full;
- `eventstore.reports.actions`: what operators did, and recording it.
"""
