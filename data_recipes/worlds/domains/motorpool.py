"""A motor pool: vans and cars that drivers borrow for trips, and their service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Van = Annotated[str, Ref("van", "车辆", "van")]
Driver = Annotated[str, Ref("driver", "司机", "driver")]
Trip = Annotated[str, Ref("trip", "行程", "trip")]
VanName = Annotated[str, Words("van's nickname", "车辆代号", "slug")]
DriverName = Annotated[str, Words("driver's name", "司机姓名", "person")]
TripDay = Annotated[str, Day("day of the trip", "出车日期")]
Town = Annotated[str, Words("destination", "目的地", "town")]
Load = Annotated[int, Amount("load in kilograms", "载重公斤数", 20, 900, 10)]
Permit = Annotated[
    str, Choice("permit", "驾照类别", {"light": ("light vans", "小型车"), "heavy": ("heavy vans", "大型车")})
]
Defect = Annotated[str, Words("defect", "故障说明", "task")]


class Motorpool(World):
    """A van makes one trip a day, not while it is in the workshop, and only drivers whose permit is valid drive."""

    NAME = "motorpool"
    TABLES = {
        "van": Table("VN", "van", "车辆", ("the van {nickname}", "{nickname}号车")),
        "driver": Table("DV", "driver", "司机", ("{name}", "{name}")),
        "trip": Table(
            "TP",
            "trip",
            "行程",
            ("the trip of {van} to {destination} on {trip_day}", "{van}{trip_day}去{destination}的行程"),
        ),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            new.row(
                "van",
                nickname=new.words("slug"),
                limit=new.number(20, 90) * 10,
                mileage=new.number(900, 90000),
                place=new.pick("yard", "yard", "yard", "workshop"),
                defect="",
            )
        for _ in range(new.number(4, 6)):
            new.row(
                "driver",
                name=new.words("person"),
                permit=new.pick("light", "heavy"),
                valid=new.pick("yes", "yes", "yes", "no"),
            )
        for _ in new.many(4, 6):
            van, day = new.of("van"), new.day()
            if not self.rows("trip", van=van, trip_day=day):
                new.row(
                    "trip",
                    van=van,
                    driver=new.of("driver"),
                    trip_day=day,
                    destination=new.words("town"),
                    load=new.number(2, 20) * 10,
                    state="planned",
                )

    def broken(self) -> Iterator[str]:
        days = [(trip["van"], trip["trip_day"]) for trip in self.state["trip"].values()]
        if len(set(days)) < len(days):
            yield "a van makes two trips on a day"

    @finds("van")
    def find_vans(self, nickname: VanName) -> Result:
        """Find vans by nickname, with load limit and place. | 按代号查找车辆、载重上限和所在位置。"""
        return self.found("van", nickname=nickname)

    @finds("driver")
    def find_drivers(self, name: DriverName) -> Result:
        """Find drivers by name. | 按姓名查找司机。"""
        return self.found("driver", name=name)

    @finds(
        "trip",
        ("list the trips of {van_id}|look up what {van_id} has to do", "列出{van_id}的行程"),
        ("It goes to: {r.trips.destination}.", "它要去：{r.trips.destination}。"),
    )
    def list_trips(self, van_id: Van) -> Result:
        """List the trips of a van. | 列出一辆车的行程。"""
        self.get("van", van_id)
        return self.found("trip", van=van_id)

    @reads(
        ("tell me the mileage of {van_id}", "查一下{van_id}的里程"),
        ("The mileage is {r.mileage}.", "里程是{r.mileage}。"),
    )
    def get_mileage(self, van_id: Van) -> Result:
        """The mileage of a van. | 查询车辆里程。"""
        return {"van_id": van_id, "mileage": self.get("van", van_id)["mileage"]}

    @changes(
        (
            "plan a trip of {van_id} with {driver_id} to {destination} on {trip_day}, loading {load} kilograms",
            "安排{driver_id}驾驶{van_id}{trip_day}去{destination}，载重{load}公斤",
        ),
        (
            "{van_id} goes to {destination} on {trip_day} with {driver_id}.",
            "{van_id}将于{trip_day}去{destination}，司机{driver_id}。",
        ),
    )
    def plan_trip(self, van_id: Van, driver_id: Driver, trip_day: TripDay, destination: Town, load: Load) -> Result:
        """Plan a trip of a van that stands in the yard. | 为停在院里的车辆安排行程。"""
        van, driver = self.get("van", van_id), self.get("driver", driver_id)
        self.need(
            van["place"] == "yard",
            f"Van {van_id} is in the workshop; fetch it first.",
            f"车辆{van_id}在修理厂，请先取回。",
            ("fetch_van", {"van_id": van_id}),
        )
        self.need(
            driver["valid"] == "yes",
            f"The permit of {driver_id} has run out; renew it first.",
            f"{driver_id}的驾照已过期，请先续期。",
            ("renew_permit", {"driver_id": driver_id}),
        )
        self.need(
            load <= van["limit"], f"The van takes {van['limit']} kilograms at most.", f"该车最多载{van['limit']}公斤。"
        )
        self.need(
            not self.rows("trip", van=van_id, trip_day=trip_day),
            "The van has a trip on that day.",
            "该车当天已有行程。",
        )
        return self.made(
            "trip", van=van_id, driver=driver_id, trip_day=trip_day, destination=destination, load=load, state="planned"
        )

    @changes(
        ("give {trip_id} to {driver_id}", "把{trip_id}交给{driver_id}"),
        ("{driver_id} drives {trip_id}.", "{trip_id}由{driver_id}驾驶。"),
        sets="driver_id",
    )
    def change_driver(self, trip_id: Trip, driver_id: Driver) -> Result:
        """Give a trip to another driver with a valid permit. | 把行程交给另一位驾照有效的司机。"""
        trip = self.get("trip", trip_id)
        self.need(
            self.get("driver", driver_id)["valid"] == "yes", "The driver's permit has run out.", "该司机的驾照已过期。"
        )
        trip["driver"] = driver_id
        return {"trip_id": trip_id, "driver_id": driver_id}

    @changes(
        ("set the load of {trip_id} to {load} kilograms", "把{trip_id}的载重改为{load}公斤"),
        ("The load of the trip is {load} kilograms.", "该行程载重{load}公斤。"),
        sets="load",
    )
    def set_load(self, trip_id: Trip, load: Load) -> Result:
        """Change the load of a trip within the van's limit. | 在上限内修改行程的载重。"""
        trip = self.get("trip", trip_id)
        self.need(
            load <= self.state["van"][trip["van"]]["limit"],
            "That is more than the van takes.",
            "超过了车辆的载重上限。",
        )
        trip["load"] = load
        return {"trip_id": trip_id, "load": load}

    @changes(("scrap {trip_id}|call {trip_id} off", "取消{trip_id}"), ("{trip_id} is off.", "{trip_id}已取消。"))
    def scrap_trip(self, trip_id: Trip) -> Result:
        """Call a trip off. | 取消行程。"""
        self.get("trip", trip_id)
        del self.state["trip"][trip_id]
        return {"trip_id": trip_id, "state": "off"}

    @changes(
        ("bring {van_id} to the workshop because of {defect}", "因为{defect}把{van_id}送修"),
        ("{van_id} is in the workshop.", "{van_id}已送修。"),
    )
    def repair_van(self, van_id: Van, defect: Defect) -> Result:
        """Bring a van to the workshop with a note of its defect. | 把车辆送修并注明故障。"""
        van = self.get("van", van_id)
        self.need(van["place"] == "yard", "The van is in the workshop already.", "该车已在修理厂。")
        van.update(place="workshop", defect=defect)
        return {"van_id": van_id, "place": "workshop", "defect": defect}

    @changes(
        ("fetch {van_id} from the workshop", "把{van_id}从修理厂取回"),
        ("{van_id} is back in the yard.", "{van_id}已取回。"),
    )
    def fetch_van(self, van_id: Van) -> Result:
        """Fetch a van from the workshop. | 从修理厂取回车辆。"""
        van = self.get("van", van_id)
        self.need(van["place"] == "workshop", "The van is in the yard.", "该车就在院里。")
        van.update(place="yard", defect="")
        return {"van_id": van_id, "place": "yard"}

    @changes(
        ("renew the permit of {driver_id}", "给{driver_id}的驾照续期"),
        ("The permit of {driver_id} is valid.", "{driver_id}的驾照已续期。"),
    )
    def renew_permit(self, driver_id: Driver) -> Result:
        """Renew a permit that has run out. | 为过期的驾照续期。"""
        driver = self.get("driver", driver_id)
        self.need(driver["valid"] == "no", "The permit is valid.", "驾照仍然有效。")
        driver["valid"] = "yes"
        return {"driver_id": driver_id, "valid": "yes"}

    @changes(
        ("record that {driver_id} may drive {permit}", "登记{driver_id}可驾驶{permit}"),
        ("{driver_id} may drive {permit}.", "{driver_id}可驾驶{permit}。"),
    )
    def set_permit(self, driver_id: Driver, permit: Permit) -> Result:
        """Record which vans a driver may drive. | 登记司机可驾驶的车型。"""
        driver = self.get("driver", driver_id)
        self.need(driver["permit"] != permit, "It is recorded so already.", "已经是这样登记的。")
        driver["permit"] = permit
        return {"driver_id": driver_id, "permit": permit}
