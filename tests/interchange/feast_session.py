"""What a user of Feast does with a generated repository; run by a Python that has Feast, which may not be ours.

python feast_session.py REPOSITORY START END QUESTIONS.json ANSWERS.json
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import pandas as pd
from feast import FeatureStore
from feast.cli.cli import cli

repository, start, end, asked, told = sys.argv[1:]
for command in (["apply"], ["materialize", start, end]):
    cli(["-c", repository, *command], standalone_mode=False)
store = FeatureStore(repo_path=repository)
questions = json.loads(Path(asked).read_text(encoding="utf-8"))
answers: dict[str, object] = {}
for name, rows in questions["online"].items():
    service = store.get_feature_service(name)
    answers[name] = store.get_online_features(service, rows, full_feature_names=True).to_dict()
times = [datetime.fromisoformat(text) for text in questions["past"]["event_timestamp"]]
frame = store.get_historical_features(
    pd.DataFrame({**questions["past"], "event_timestamp": pd.to_datetime(times)}),
    ["profile_like:token_ids"],
    full_feature_names=True,
).to_df()
lists = frame.sort_values(["user_id", "event_timestamp"])["profile_like__token_ids"]
answers["past"] = [None if value is None else [int(token) for token in value] for value in lists]
answers["tags"] = {view.name: dict(view.tags) for view in store.list_feature_views()}
Path(told).write_text(json.dumps(answers), encoding="utf-8")
