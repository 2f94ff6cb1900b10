"""An observatory: telescopes, astronomers, and the nights that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Time, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Scope = Annotated[str, Ref("telescope", "望远镜", "scope")]
Astronomer = Annotated[str, Ref("astronomer", "天文学家", "astronomer")]
Session = Annotated[str, Ref("session", "观测", "session")]
ScopeName = Annotated[str, Words("telescope's name", "望远镜名称", "slug")]
AstronomerName = Annotated[str, Words("astronomer's name", "天文学家姓名", "person")]
Night = Annotated[str, Day("night", "观测夜")]
FirstLight = Annotated[str, Time("time of first light", "开始时间")]
Target = Annotated[str, Words("target", "目标", "title")]
Minutes = Annotated[int, Amount("exposure in minutes", "曝光分钟数", 5, 240, 5)]
Filter = Annotated[
    str,
    Choice(
        "filter",
        "滤镜",
        {
            "red": ("the red filter", "红色滤镜"),
            "blue": ("the blue filter", "蓝色滤镜"),
            "clear": ("the clear filter", "透明滤镜"),
        },
    ),
]
Log = Annotated[str, Words("log entry", "日志", "note")]


class Observatory(World):
    """A telescope observes once a night, not under a shut dome."""

    NAME = "observatory"
    TABLES = {
        "scope": Table("SC", "telescope", "望远镜", ("the telescope {scope_name}", "望远镜{scope_name}")),
        "astronomer": Table("AS", "astronomer", "天文学家", ("{name}", "{name}")),
        "session": Table("SS", "session", "观测", ("the session of {night} at {scope}", "{scope}{night}的观测")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(3, 5)):
            new.row(
                "scope",
                scope_name=new.words("slug"),
                mirror=new.number(20, 400),
                dome=new.pick("open", "open", "open", "shut"),
                filter=new.pick("red", "blue", "clear"),
            )
        for _ in range(new.number(4, 6)):
            new.row("astronomer", name=new.words("person"), hours=new.number(0, 40))
        for _ in new.many(4, 6):
            scope, night = new.of("scope"), new.day()
            if not self.rows("session", scope=scope, night=night):
                new.row(
                    "session",
                    scope=scope,
                    astronomer=new.of("astronomer"),
                    night=night,
                    first_light=new.time(),
                    target=new.words("title"),
                    exposure=new.number(1, 40) * 5,
                    log="",
                )

    def broken(self) -> Iterator[str]:
        nights = [(s["scope"], s["night"]) for s in self.state["session"].values()]
        if len(set(nights)) < len(nights):
            yield "a telescope observes twice in a night"

    @finds("scope")
    def find_scopes(self, scope_name: ScopeName) -> Result:
        """Find telescopes by name. | 按名称查找望远镜。"""
        return self.found("scope", scope_name=scope_name)

    @finds("astronomer")
    def find_astronomers(self, name: AstronomerName) -> Result:
        """Find astronomers by name. | 按姓名查找天文学家。"""
        return self.found("astronomer", name=name)

    @finds(
        "session",
        ("list the sessions at {scope_id}", "列出{scope_id}的观测"),
        ("The nights: {r.sessions.night}.", "观测夜：{r.sessions.night}。"),
    )
    def list_sessions(self, scope_id: Scope) -> Result:
        """List the sessions at a telescope. | 列出望远镜的观测。"""
        self.get("scope", scope_id)
        return self.found("session", scope=scope_id)

    @reads(
        ("tell me the mirror size of {scope_id}", "查一下{scope_id}的镜面尺寸"),
        ("The mirror measures {r.mirror} centimetres.", "镜面为{r.mirror}厘米。"),
    )
    def get_mirror(self, scope_id: Scope) -> Result:
        """The mirror size of a telescope in centimetres. | 查询望远镜的镜面厘米数。"""
        return {"scope_id": scope_id, "mirror": self.get("scope", scope_id)["mirror"]}

    @changes(
        (
            "give {astronomer_id} the night {night} at {scope_id} to observe {target} for {exposure} minutes",
            "把{scope_id}的{night}夜给{astronomer_id}观测{target}，曝光{exposure}分钟",
        ),
        (
            "{astronomer_id} observes {target} on {night} at {scope_id}.",
            "{astronomer_id}将于{night}用{scope_id}观测{target}。",
        ),
    )
    def grant_night(
        self, scope_id: Scope, astronomer_id: Astronomer, night: Night, target: Target, exposure: Minutes
    ) -> Result:
        """Give an astronomer a free night at a telescope whose dome is open. | 把圆顶已开的望远镜的空闲夜分给天文学家。"""
        self.get("astronomer", astronomer_id)
        self.need(
            self.get("scope", scope_id)["dome"] == "open",
            f"The dome of {scope_id} is shut; open it first.",
            f"{scope_id}的圆顶关着，请先打开。",
            ("open_dome", {"scope_id": scope_id}),
        )
        self.need(not self.rows("session", scope=scope_id, night=night), "That night is taken.", "该夜已被占用。")
        return self.made(
            "session",
            scope=scope_id,
            astronomer=astronomer_id,
            night=night,
            first_light="",
            target=target,
            exposure=exposure,
            log="",
        )

    @changes(
        ("expose {session_id} for {exposure} minutes", "把{session_id}的曝光改为{exposure}分钟"),
        ("The exposure is {exposure} minutes.", "曝光改为{exposure}分钟。"),
        sets="exposure",
    )
    def set_exposure(self, session_id: Session, exposure: Minutes) -> Result:
        """Set the exposure of a session. | 设置观测的曝光。"""
        self.get("session", session_id)["exposure"] = exposure
        return {"session_id": session_id, "exposure": exposure}

    @changes(
        ("begin {session_id} at {first_light}", "让{session_id}在{first_light}开始"),
        ("The session begins at {first_light}.", "观测{first_light}开始。"),
        sets="first_light",
    )
    def set_first_light(self, session_id: Session, first_light: FirstLight) -> Result:
        """Set when a session begins. | 设置观测的开始时间。"""
        self.get("session", session_id)["first_light"] = first_light
        return {"session_id": session_id, "first_light": first_light}

    @changes(
        ("point {session_id} at {target}", "让{session_id}对准{target}"),
        ("{session_id} looks at {target}.", "{session_id}已对准{target}。"),
        sets="target",
    )
    def point_session(self, session_id: Session, target: Target) -> Result:
        """Choose another target for a session. | 为观测更换目标。"""
        self.get("session", session_id)["target"] = target
        return {"session_id": session_id, "target": target}

    @changes(
        ("pass {session_id} on to {astronomer_id}", "把{session_id}转给{astronomer_id}"),
        ("{astronomer_id} has {session_id}.", "{session_id}已转给{astronomer_id}。"),
        sets="astronomer_id",
    )
    def pass_on(self, session_id: Session, astronomer_id: Astronomer) -> Result:
        """Pass a session on to another astronomer. | 把观测转给另一位天文学家。"""
        session = self.get("session", session_id)
        self.get("astronomer", astronomer_id)
        self.need(session["astronomer"] != astronomer_id, "The session is theirs already.", "观测已属于此人。")
        session["astronomer"] = astronomer_id
        return {"session_id": session_id, "astronomer_id": astronomer_id}

    @changes(("strike {session_id}", "撤掉{session_id}"), ("{session_id} is struck.", "{session_id}已撤掉。"))
    def strike_session(self, session_id: Session) -> Result:
        """Strike a session from the plan. | 撤掉一次观测。"""
        self.get("session", session_id)
        del self.state["session"][session_id]
        return {"session_id": session_id, "status": "struck"}

    @changes(
        ("open the dome of {scope_id}", "打开{scope_id}的圆顶"),
        ("The dome of {scope_id} is open.", "{scope_id}的圆顶已打开。"),
    )
    def open_dome(self, scope_id: Scope) -> Result:
        """Open the dome of a telescope. | 打开望远镜的圆顶。"""
        scope = self.get("scope", scope_id)
        self.need(scope["dome"] == "shut", "The dome is open already.", "圆顶已经打开。")
        scope["dome"] = "open"
        return {"scope_id": scope_id, "dome": "open"}

    @changes(
        ("shut the dome of {scope_id}", "关上{scope_id}的圆顶"),
        ("The dome of {scope_id} is shut.", "{scope_id}的圆顶已关。"),
    )
    def shut_dome(self, scope_id: Scope) -> Result:
        """Shut the dome of a telescope. | 关上望远镜的圆顶。"""
        scope = self.get("scope", scope_id)
        self.need(scope["dome"] == "open", "The dome is shut already.", "圆顶已经关上。")
        scope["dome"] = "shut"
        return {"scope_id": scope_id, "dome": "shut"}

    @changes(
        ("mount {filter} on {scope_id}", "给{scope_id}装上{filter}"),
        ("{scope_id} has {filter}.", "{scope_id}已装{filter}。"),
    )
    def mount_filter(self, scope_id: Scope, filter: Filter) -> Result:
        """Mount another filter on a telescope. | 给望远镜换滤镜。"""
        scope = self.get("scope", scope_id)
        self.need(scope["filter"] != filter, "That filter is mounted already.", "已装这种滤镜。")
        scope["filter"] = filter
        return {"scope_id": scope_id, "filter": filter}

    @changes(
        ("enter {log} into the log of {session_id}", "在{session_id}的日志里写{log}"),
        ("The log of {session_id} says {log}.", "{session_id}的日志是{log}。"),
        sets="log",
    )
    def write_log(self, session_id: Session, log: Log) -> Result:
        """Write the log of a session. | 填写观测日志。"""
        self.get("session", session_id)["log"] = log
        return {"session_id": session_id, "log": log}
