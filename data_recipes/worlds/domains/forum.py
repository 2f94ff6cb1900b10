"""A forum's moderation: people, threads, reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Poster = Annotated[str, Ref("poster", "用户", "poster")]
Thread = Annotated[str, Ref("thread", "主题", "thread")]
Report = Annotated[str, Ref("report", "举报", "report")]
Handle = Annotated[str, Words("handle", "用户名", "slug")]
Heading = Annotated[str, Words("thread heading", "主题标题", "title")]
Verdict = Annotated[
    str,
    Choice(
        "verdict",
        "处理结论",
        {"upheld": ("upheld", "成立"), "rejected": ("rejected", "驳回"), "duplicate": ("a duplicate", "重复")},
    ),
]
Mute = Annotated[int, Amount("hours of silence", "禁言小时数", 1, 96)]
Rank = Annotated[
    str,
    Choice(
        "rank", "等级", {"novice": ("novice", "新手"), "regular": ("regular", "常客"), "steward": ("steward", "版主")}
    ),
]
Warning = Annotated[str, Words("warning text", "警告内容", "note")]
Topic = Annotated[str, Words("topic tag", "话题标签", "tag")]


class Forum(World):
    """A locked thread cannot be pinned; a closed report is final."""

    NAME = "forum"
    TABLES = {
        "poster": Table("UP", "poster", "用户", ("the poster {handle}", "用户{handle}")),
        "thread": Table("TH", "thread", "主题", ("the thread “{heading}”", "主题“{heading}”")),
        "report": Table("RP", "report", "举报", ("the report by {poster} on {thread}", "{poster}对{thread}的举报")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(5, 7)):
            new.row(
                "poster",
                handle=new.words("slug"),
                rank=new.pick("novice", "regular"),
                silence_hours=0,
                warnings=0,
                last_warning="",
            )
        for _ in range(new.number(4, 6)):
            new.row(
                "thread",
                heading=new.words("title"),
                starter=new.words("person"),
                access=new.pick("open", "open", "locked"),
                pinned="no",
                topic="",
                replies=new.number(0, 400),
            )
        pairs = [(p, t) for p in self.state["poster"] for t in self.state["thread"]]
        for poster, thread in new.rng.sample(pairs, min(len(pairs), len(new.many(3, 5)))):
            new.row("report", poster=poster, thread=thread, verdict=new.pick(None, None, "upheld"))

    def broken(self) -> Iterator[str]:
        if any(t["pinned"] == "yes" and t["access"] == "locked" for t in self.state["thread"].values()):
            yield "a locked thread is pinned"

    @finds("poster")
    def find_posters(self, handle: Handle) -> Result:
        """Find posters by handle. | 按用户名查找用户。"""
        return self.found("poster", handle=handle)

    @finds("thread")
    def find_threads(self, heading: Heading) -> Result:
        """Find threads by heading. | 按标题查找主题。"""
        return self.found("thread", heading=heading)

    @finds(
        "report",
        ("list the reports on {thread_id}|see which reports there are on {thread_id}", "列出{thread_id}的举报"),
        ("The verdicts: {r.reports.verdict}.", "处理结论：{r.reports.verdict}。"),
    )
    def list_reports(self, thread_id: Thread) -> Result:
        """List the reports on a thread with poster ids and verdicts. | 列出主题收到的举报、举报人编号和结论。"""
        self.get("thread", thread_id)
        return self.found("report", thread=thread_id)

    @finds("report")
    def list_reports_by(self, poster_id: Poster) -> Result:
        """List the reports that a poster has filed. | 列出一名用户提交的举报。"""
        self.get("poster", poster_id)
        return self.found("report", poster=poster_id)

    @reads(
        ("count the replies in {thread_id}", "统计{thread_id}的回复数"),
        ("It has {r.replies} replies.", "共有{r.replies}条回复。"),
    )
    def count_replies(self, thread_id: Thread) -> Result:
        """Count the replies of a thread. | 统计主题的回复数。"""
        return {"thread_id": thread_id, "replies": self.get("thread", thread_id)["replies"]}

    @changes(
        (
            "silence {poster_id} for {silence_hours} hours|mute {poster_id} for {silence_hours} hours",
            "把{poster_id}禁言{silence_hours}小时",
        ),
        ("{poster_id} is silenced for {silence_hours} hours.", "{poster_id}已被禁言{silence_hours}小时。"),
        sets="silence_hours",
    )
    def silence_poster(self, poster_id: Poster, silence_hours: Mute) -> Result:
        """Keep a poster from writing for some hours; replaces an earlier silence. | 禁言用户若干小时，覆盖之前的禁言。"""
        poster = self.get("poster", poster_id)
        self.need(
            poster["rank"] != "steward",
            f"{poster_id} is a steward and cannot be silenced.",
            f"{poster_id}是版主，不能禁言。",
        )
        poster["silence_hours"] = silence_hours
        return {"poster_id": poster_id, "silence_hours": silence_hours}

    @changes(
        ("let {poster_id} write again", "解除{poster_id}的禁言"),
        ("{poster_id} may write again.", "{poster_id}的禁言已解除。"),
    )
    def lift_silence(self, poster_id: Poster) -> Result:
        """End a poster's silence. | 解除用户的禁言。"""
        poster = self.get("poster", poster_id)
        self.need(poster["silence_hours"] > 0, "The poster is not silenced.", "该用户没有被禁言。")
        poster["silence_hours"] = 0
        return {"poster_id": poster_id, "silence_hours": 0}

    @changes(
        ("warn {poster_id} with the words {warning}", "警告{poster_id}，内容为{warning}"),
        ("{poster_id} has {r.warnings} warnings now.", "{poster_id}现有{r.warnings}次警告。"),
    )
    def warn_poster(self, poster_id: Poster, warning: Warning) -> Result:
        """Send a poster a warning, which is counted. | 警告用户并计数。"""
        poster = self.get("poster", poster_id)
        poster.update(warnings=poster["warnings"] + 1, last_warning=warning)
        return {"poster_id": poster_id, "warnings": poster["warnings"]}

    @changes(
        ("make {poster_id} a {rank}", "把{poster_id}设为{rank}"),
        ("{poster_id} is a {rank} now.", "{poster_id}现在是{rank}。"),
    )
    def set_rank(self, poster_id: Poster, rank: Rank) -> Result:
        """Give a poster another rank. | 修改用户等级。"""
        poster = self.get("poster", poster_id)
        self.need(poster["rank"] != rank, "The poster has that rank already.", "该用户已是这个等级。")
        poster["rank"] = rank
        return {"poster_id": poster_id, "rank": rank}

    @changes(("lock {thread_id}", "锁定{thread_id}"), ("{thread_id} is locked.", "{thread_id}已锁定。"))
    def lock_thread(self, thread_id: Thread) -> Result:
        """Lock an open thread that is not pinned. | 锁定未置顶的开放主题。"""
        thread = self.get("thread", thread_id)
        self.need(thread["access"] == "open", "The thread is locked already.", "该主题已锁定。")
        self.need(thread["pinned"] == "no", "The thread is pinned.", "该主题已置顶。")
        thread["access"] = "locked"
        return {"thread_id": thread_id, "access": "locked"}

    @changes(("unlock {thread_id}", "解锁{thread_id}"), ("{thread_id} is open.", "{thread_id}已解锁。"))
    def unlock_thread(self, thread_id: Thread) -> Result:
        """Unlock a locked thread. | 解锁主题。"""
        thread = self.get("thread", thread_id)
        self.need(thread["access"] == "locked", "The thread is open already.", "该主题没有锁定。")
        thread["access"] = "open"
        return {"thread_id": thread_id, "access": "open"}

    @changes(("pin {thread_id} to the top", "置顶{thread_id}"), ("{thread_id} is pinned.", "{thread_id}已置顶。"))
    def pin_thread(self, thread_id: Thread) -> Result:
        """Pin an open thread to the top. | 置顶一个开放的主题。"""
        thread = self.get("thread", thread_id)
        self.need(thread["pinned"] == "no", "The thread is pinned already.", "该主题已经置顶。")
        self.need(
            thread["access"] == "open",
            f"Thread {thread_id} is locked; unlock it first.",
            f"主题{thread_id}已锁定，请先解锁。",
            ("unlock_thread", {"thread_id": thread_id}),
        )
        thread["pinned"] = "yes"
        return {"thread_id": thread_id, "pinned": "yes"}

    @changes(
        ("tag {thread_id} with {topic}", "给{thread_id}加话题{topic}"),
        ("{thread_id} has the topic {topic}.", "{thread_id}的话题是{topic}。"),
        sets="topic",
    )
    def tag_thread(self, thread_id: Thread, topic: Topic) -> Result:
        """Give a thread a topic in place of its old one. | 设置主题的话题，覆盖旧的。"""
        self.get("thread", thread_id)["topic"] = topic
        return {"thread_id": thread_id, "topic": topic}

    @changes(
        ("close {report_id} as {verdict}", "将{report_id}结案为{verdict}"),
        ("{report_id} is closed: {verdict}.", "{report_id}已结案：{verdict}。"),
    )
    def close_report(self, report_id: Report, verdict: Verdict) -> Result:
        """Close an open report with a verdict. | 为未结案的举报给出结论。"""
        report = self.get("report", report_id)
        self.need(report["verdict"] is None, "The report is closed already.", "该举报已结案。")
        report["verdict"] = verdict
        return {"report_id": report_id, "verdict": verdict}
