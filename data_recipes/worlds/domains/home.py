"""A smart home: rooms, lamps, blinds and timers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Flag, Ref, Time, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Room = Annotated[str, Ref("room", "房间", "room")]
Gadget = Annotated[str, Ref("gadget", "设备", "gadget")]
Timer = Annotated[str, Ref("timer", "定时", "timer")]
RoomName = Annotated[str, Words("room's name", "房间名称", "place")]
Power = Annotated[bool, Flag("power", "电源", ("on", "打开"), ("off", "关闭"))]
Level = Annotated[int, Amount("level in percent", "百分比", 5, 100, 5)]
Warmth = Annotated[float, Amount("target in degrees", "目标温度", 15.0, 26.0, 0.5)]
StartTime = Annotated[str, Time("start time", "启动时间")]
Rhythm = Annotated[
    str,
    Choice(
        "days",
        "日子",
        {"daily": ("every day", "每天"), "workdays": ("on workdays", "工作日"), "weekends": ("on weekends", "周末")},
    ),
]
Sticker = Annotated[str, Words("nickname", "昵称", "slug")]

SORTS = ("lamp", "blind", "fan", "speaker")


class Home(World):
    """A gadget with the child lock on cannot be switched; its level can be set only while it is on."""

    NAME = "home"
    TABLES = {
        "room": Table("RM", "room", "房间", ("{name}", "{name}")),
        "gadget": Table("GD", "gadget", "设备", ("the {sort} number {number} in {room}", "{room}的{number}号{sort}")),
        "timer": Table("TI", "timer", "定时", ("the {start_time} timer of {gadget}", "{gadget}{start_time}的定时")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            room = new.row("room", name=new.words("place"), warmth=new.number(32, 48) / 2)
            for number in range(1, 1 + len(new.many(2, 4))):
                gadget = new.row(
                    "gadget",
                    room=room,
                    sort=new.pick(*SORTS),
                    number=number,
                    nickname="",
                    power=new.pick(True, True, False),
                    level=new.number(1, 20) * 5,
                    child_lock=new.pick("off", "off", "off", "on"),
                )
                if new.rng.random() < 0.3:
                    new.row("timer", gadget=gadget, start_time=new.time(), days=new.pick("daily", "workdays"))

    def broken(self) -> Iterator[str]:
        if any(not 0 < gadget["level"] <= 100 for gadget in self.state["gadget"].values()):
            yield "a level out of range"

    def _unlocked(self, gadget_id: str) -> None:
        self.need(
            self.get("gadget", gadget_id)["child_lock"] == "off",
            f"The child lock of {gadget_id} is on; lift it first.",
            f"{gadget_id}的童锁已开启，请先解除。",
            ("lift_lock", {"gadget_id": gadget_id}),
        )

    @finds("room")
    def find_rooms(self, name: RoomName) -> Result:
        """Find rooms by name. | 按名称查找房间。"""
        return self.found("room", name=name)

    @finds(
        "gadget",
        ("list the gadgets in {room_id}", "列出{room_id}的设备"),
        ("There are {r.gadgets.sort}.", "那里有{r.gadgets.sort}。"),
    )
    def list_gadgets(self, room_id: Room) -> Result:
        """List the gadgets of a room with sort, number and settings. | 列出房间里的设备、编号和设置。"""
        self.get("room", room_id)
        return self.found("gadget", room=room_id)

    @finds("timer")
    def list_timers(self, gadget_id: Gadget) -> Result:
        """List the timers of a gadget. | 列出一个设备的定时。"""
        self.get("gadget", gadget_id)
        return self.found("timer", gadget=gadget_id)

    @reads(
        ("check the level of {gadget_id}|tell me how high {gadget_id} is set", "查一下{gadget_id}调到了多少"),
        ("It is at {r.level} percent.", "现在是百分之{r.level}。"),
    )
    def get_level(self, gadget_id: Gadget) -> Result:
        """The level that a gadget is set to. | 查询设备的档位百分比。"""
        return {"gadget_id": gadget_id, "level": self.get("gadget", gadget_id)["level"]}

    @changes(
        ("switch {gadget_id} {power}|turn {gadget_id} {power}", "{power}{gadget_id}"),
        ("{gadget_id} is {power}.", "{gadget_id}已{power}。"),
    )
    def switch_gadget(self, gadget_id: Gadget, power: Power) -> Result:
        """Switch a gadget on or off, if its child lock is off. | 打开或关闭未上童锁的设备。"""
        self._unlocked(gadget_id)
        gadget = self.state["gadget"][gadget_id]
        self.need(gadget["power"] != power, "It is so already.", "设备已经是这个状态。")
        gadget["power"] = power
        return {"gadget_id": gadget_id, "power": power}

    @changes(
        ("set {gadget_id} to {level} percent|bring {gadget_id} to {level} percent", "把{gadget_id}调到百分之{level}"),
        ("{gadget_id} is at {level} percent.", "{gadget_id}已调到百分之{level}。"),
        sets="level",
    )
    def set_level(self, gadget_id: Gadget, level: Level) -> Result:
        """Set the level of a gadget that is on. | 设置已打开设备的档位百分比。"""
        gadget = self.get("gadget", gadget_id)
        self.need(
            gadget["power"],
            f"{gadget_id} is off; switch it on first.",
            f"{gadget_id}是关着的，请先打开。",
            ("switch_gadget", {"gadget_id": gadget_id, "power": True}),
        )
        gadget["level"] = level
        return {"gadget_id": gadget_id, "level": level}

    @changes(
        ("heat {room_id} to {warmth} degrees", "把{room_id}的温度设为{warmth}度"),
        ("{room_id} will be at {warmth} degrees.", "{room_id}的温度已设为{warmth}度。"),
        sets="warmth",
    )
    def set_warmth(self, room_id: Room, warmth: Warmth) -> Result:
        """Set the target temperature of a room. | 设置房间的目标温度。"""
        self.get("room", room_id)["warmth"] = warmth
        return {"room_id": room_id, "warmth": warmth}

    @changes(
        ("set a timer for {gadget_id} at {start_time} {days}", "给{gadget_id}设置{days}{start_time}的定时"),
        ("{gadget_id} starts at {start_time} {days}.", "{gadget_id}将在{days}{start_time}启动。"),
    )
    def add_timer(self, gadget_id: Gadget, start_time: StartTime, days: Rhythm) -> Result:
        """Let a gadget start at a time of day. | 让设备在某个时间启动。"""
        self.get("gadget", gadget_id)
        return self.made("timer", gadget=gadget_id, start_time=start_time, days=days)

    @changes(("delete {timer_id}", "删除{timer_id}"), ("{timer_id} is deleted.", "{timer_id}已删除。"))
    def delete_timer(self, timer_id: Timer) -> Result:
        """Delete a timer. | 删除一个定时。"""
        self.get("timer", timer_id)
        del self.state["timer"][timer_id]
        return {"timer_id": timer_id, "status": "deleted"}

    @changes(
        ("put the child lock on {gadget_id}", "给{gadget_id}上童锁"),
        ("The child lock of {gadget_id} is on.", "{gadget_id}的童锁已开启。"),
    )
    def put_lock(self, gadget_id: Gadget) -> Result:
        """Switch a gadget's child lock on. | 开启设备的童锁。"""
        gadget = self.get("gadget", gadget_id)
        self.need(gadget["child_lock"] == "off", "The child lock is on already.", "童锁已经开启。")
        gadget["child_lock"] = "on"
        return {"gadget_id": gadget_id, "child_lock": "on"}

    @changes(
        ("lift the child lock of {gadget_id}", "解除{gadget_id}的童锁"),
        ("The child lock of {gadget_id} is off.", "{gadget_id}的童锁已解除。"),
    )
    def lift_lock(self, gadget_id: Gadget) -> Result:
        """Switch a gadget's child lock off. | 解除设备的童锁。"""
        gadget = self.get("gadget", gadget_id)
        self.need(gadget["child_lock"] == "on", "The child lock is off already.", "童锁没有开启。")
        gadget["child_lock"] = "off"
        return {"gadget_id": gadget_id, "child_lock": "off"}

    @changes(
        ("give {gadget_id} the nickname {nickname}", "给{gadget_id}取昵称{nickname}"),
        ("{gadget_id} is called {nickname}.", "{gadget_id}的昵称是{nickname}。"),
        sets="nickname",
    )
    def name_gadget(self, gadget_id: Gadget, nickname: Sticker) -> Result:
        """Give a gadget a nickname. | 给设备取昵称。"""
        self.get("gadget", gadget_id)["nickname"] = nickname
        return {"gadget_id": gadget_id, "nickname": nickname}
