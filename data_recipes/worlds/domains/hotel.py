"""A hotel: guests, suites, stays and extras on the bill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Guest = Annotated[str, Ref("guest", "客人", "guest")]
Suite = Annotated[str, Ref("suite", "套房", "suite")]
Stay = Annotated[str, Ref("stay", "住宿", "stay")]
GuestName = Annotated[str, Words("guest's name", "客人姓名", "person")]
SuiteName = Annotated[str, Words("suite's name", "套房名称", "place")]
Arrival = Annotated[str, Day("day of arrival", "入住日期")]
Nights = Annotated[int, Amount("number of nights", "晚数", 1, 14)]
Extra = Annotated[
    str,
    Choice(
        "extra",
        "附加服务",
        {
            "breakfast": ("breakfast", "早餐"),
            "laundry": ("laundry", "洗衣"),
            "parking": ("a parking space", "停车位"),
            "cot": ("a cot", "婴儿床"),
        },
    ),
]
Wish = Annotated[str, Words("wish", "特别要求", "note")]


class Hotel(World):
    """A suite takes one stay at a day of arrival; a suite being cleaned takes none; a checked-in stay cannot be dropped."""

    NAME = "hotel"
    TABLES = {
        "guest": Table("GU", "guest", "客人", ("{name}", "{name}")),
        "suite": Table("SU", "suite", "套房", ("the suite {name}", "{name}套房")),
        "stay": Table("ST", "stay", "住宿", ("{guest}'s stay from {arrival}", "{guest}{arrival}起的住宿")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            new.row("guest", name=new.words("person"), tier=new.pick("plain", "silver", "gold"))
        for _ in range(new.number(4, 6)):
            new.row(
                "suite", name=new.words("place"), beds=new.number(1, 4), care=new.pick("ready", "ready", "cleaning")
            )
        for _ in new.many(4, 6):
            new.row(
                "stay",
                guest=new.of("guest"),
                suite=new.of("suite"),
                arrival=new.day(),
                nights=new.number(1, 9),
                extras=[],
                wish="",
                status=new.pick("booked", "booked", "checked in"),
            )

    def broken(self) -> Iterator[str]:
        if any(stay["nights"] < 1 for stay in self.state["stay"].values()):
            yield "a stay without a night"

    def _booked(self, stay_id: str) -> None:
        self.need(self.get("stay", stay_id)["status"] == "booked", "The guest is checked in.", "客人已经入住。")

    @finds("guest")
    def find_guests(self, name: GuestName) -> Result:
        """Find guests by name. | 按姓名查找客人。"""
        return self.found("guest", name=name)

    @finds("suite")
    def find_suites(self, name: SuiteName) -> Result:
        """Find suites by name, with beds and whether they are ready. | 按名称查找套房、床位数和是否可用。"""
        return self.found("suite", name=name)

    @finds(
        "stay",
        ("list the stays of {guest_id}", "列出{guest_id}的住宿"),
        ("{guest_id} arrives on: {r.stays.arrival}.", "{guest_id}的入住日期：{r.stays.arrival}。"),
    )
    def list_stays(self, guest_id: Guest) -> Result:
        """List the stays of a guest. | 列出一位客人的住宿。"""
        self.get("guest", guest_id)
        return self.found("stay", guest=guest_id)

    @reads(
        ("tell me how many beds {suite_id} has", "查一下{suite_id}有几张床"),
        ("It has {r.beds} beds.", "有{r.beds}张床。"),
    )
    def get_suite(self, suite_id: Suite) -> Result:
        """Beds and state of a suite. | 查询套房的床位数和状态。"""
        return self.show("suite", suite_id)

    @changes(
        (
            "book {suite_id} for {guest_id} from {arrival}, {nights} nights|reserve {suite_id} for {guest_id}, arriving {arrival} for {nights} nights",
            "给{guest_id}预订{suite_id}，{arrival}入住，{nights}晚",
        ),
        (
            "{suite_id} is booked for {guest_id} from {arrival}, {nights} nights.",
            "已为{guest_id}预订{suite_id}，{arrival}入住，{nights}晚。",
        ),
    )
    def book_stay(self, guest_id: Guest, suite_id: Suite, arrival: Arrival, nights: Nights, wish: Wish = "") -> Result:
        """Book a ready suite for a guest. | 为客人预订可用的套房。"""
        self.get("guest", guest_id)
        self.need(
            self.get("suite", suite_id)["care"] == "ready",
            f"Suite {suite_id} is being cleaned; release it first.",
            f"套房{suite_id}正在清洁，请先放行。",
            ("release_suite", {"suite_id": suite_id}),
        )
        self.need(
            not self.rows("stay", suite=suite_id, arrival=arrival),
            "The suite is taken on that day.",
            "该套房当天已有人入住。",
        )
        return self.made(
            "stay",
            guest=guest_id,
            suite=suite_id,
            arrival=arrival,
            nights=nights,
            extras=[],
            wish=wish,
            status="booked",
        )

    @changes(
        ("change {stay_id} to {nights} nights", "把{stay_id}改为{nights}晚"),
        ("The stay is now {nights} nights long.", "住宿已改为{nights}晚。"),
        sets="nights",
    )
    def set_nights(self, stay_id: Stay, nights: Nights) -> Result:
        """Change how many nights a stay lasts. | 修改住宿的晚数。"""
        self.get("stay", stay_id)["nights"] = nights
        return {"stay_id": stay_id, "nights": nights}

    @changes(
        ("move {stay_id} into {suite_id}", "把{stay_id}换到{suite_id}"),
        ("{stay_id} is in {suite_id} now.", "{stay_id}已换到{suite_id}。"),
        sets="suite_id",
    )
    def move_stay(self, stay_id: Stay, suite_id: Suite) -> Result:
        """Move a booked stay into another ready suite. | 把已预订的住宿换到另一间可用套房。"""
        self._booked(stay_id)
        self.need(self.get("suite", suite_id)["care"] == "ready", "That suite is being cleaned.", "那间套房正在清洁。")
        self.state["stay"][stay_id]["suite"] = suite_id
        return {"stay_id": stay_id, "suite_id": suite_id}

    @changes(
        ("add {extra} to {stay_id}", "给{stay_id}加上{extra}"),
        ("{extra} is added to {stay_id}.", "已为{stay_id}加上{extra}。"),
    )
    def add_extra(self, stay_id: Stay, extra: Extra) -> Result:
        """Add an extra to a stay that does not have it. | 为住宿增加一项附加服务。"""
        stay = self.get("stay", stay_id)
        self.need(extra not in stay["extras"], "The stay has it already.", "该住宿已有这项服务。")
        stay["extras"].append(extra)
        return {"stay_id": stay_id, "extras": stay["extras"]}

    @changes(("check in {stay_id}", "办理{stay_id}的入住"), ("{stay_id} is checked in.", "{stay_id}已入住。"))
    def check_in(self, stay_id: Stay) -> Result:
        """Check a booked stay in. | 为已预订的住宿办理入住。"""
        self._booked(stay_id)
        self.state["stay"][stay_id]["status"] = "checked in"
        return {"stay_id": stay_id, "status": "checked in"}

    @changes(("drop {stay_id}|cancel {stay_id}", "取消{stay_id}"), ("{stay_id} is cancelled.", "{stay_id}已取消。"))
    def drop_stay(self, stay_id: Stay) -> Result:
        """Cancel a stay that has not begun. | 取消尚未入住的住宿。"""
        self._booked(stay_id)
        del self.state["stay"][stay_id]
        return {"stay_id": stay_id, "status": "cancelled"}

    @changes(("release {suite_id} from cleaning", "放行{suite_id}"), ("{suite_id} is ready.", "{suite_id}已可用。"))
    def release_suite(self, suite_id: Suite) -> Result:
        """Declare a suite clean and ready. | 宣布套房清洁完毕可用。"""
        suite = self.get("suite", suite_id)
        self.need(suite["care"] == "cleaning", "The suite is ready already.", "该套房本来就可用。")
        suite["care"] = "ready"
        return {"suite_id": suite_id, "care": "ready"}

    @changes(
        ("send {suite_id} to cleaning", "安排清洁{suite_id}"), ("{suite_id} is being cleaned.", "{suite_id}正在清洁。")
    )
    def clean_suite(self, suite_id: Suite) -> Result:
        """Have a ready suite cleaned. | 安排清洁一间可用的套房。"""
        suite = self.get("suite", suite_id)
        self.need(suite["care"] == "ready", "The suite is being cleaned already.", "该套房正在清洁。")
        suite["care"] = "cleaning"
        return {"suite_id": suite_id, "care": "cleaning"}

    @changes(
        ("note the wish {wish} for {stay_id}", "为{stay_id}记下要求{wish}"),
        ("The wish {wish} is noted for {stay_id}.", "已为{stay_id}记下{wish}。"),
        sets="wish",
    )
    def note_wish(self, stay_id: Stay, wish: Wish) -> Result:
        """Note a guest's wish for a stay. | 为住宿记下客人的要求。"""
        self.get("stay", stay_id)["wish"] = wish
        return {"stay_id": stay_id, "wish": wish}
