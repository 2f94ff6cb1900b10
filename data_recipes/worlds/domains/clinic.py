"""A clinic: doctors, patients, appointments and reminders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Choice, Day, Flag, Ref, Time, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Doctor = Annotated[str, Ref("doctor", "医生", "doctor")]
Patient = Annotated[str, Ref("patient", "患者", "patient")]
Visit = Annotated[str, Ref("visit", "预约", "visit")]
Field = Annotated[
    str,
    Choice(
        "field of medicine",
        "科室",
        {
            "eyes": ("eye care", "眼科"),
            "skin": ("skin care", "皮肤科"),
            "heart": ("heart care", "心内科"),
            "teeth": ("dental care", "牙科"),
        },
    ),
]
PatientName = Annotated[str, Words("patient's name", "患者姓名", "person")]
VisitDay = Annotated[str, Day("day of the visit", "就诊日期")]
VisitTime = Annotated[str, Time("time of the visit", "就诊时间")]
Reason = Annotated[str, Words("memo for the doctor", "给医生的备忘", "note")]
Remind = Annotated[bool, Flag("reminder", "短信提醒", ("on", "开启"), ("off", "关闭"))]


class Clinic(World):
    """A doctor sees one patient at a time; doctors on leave see none."""

    NAME = "clinic"
    TABLES = {
        "doctor": Table("DR", "doctor", "医生", ("Dr. {name} ({field})", "{field}的{name}医生")),
        "patient": Table("PT", "patient", "患者", ("{name}", "{name}")),
        "visit": Table("VS", "visit", "预约", ("{patient}'s visit on {visit_day}", "{patient}{visit_day}的预约")),
    }

    def fill(self, new: Maker) -> None:
        for _ in new.many(5, 7):
            new.row(
                "doctor",
                name=new.words("person"),
                field=new.pick("eyes", "skin", "heart", "teeth"),
                duty=new.pick("working", "working", "leave"),
            )
        for _ in range(new.number(5, 7)):
            new.row("patient", name=new.words("person"), reminder=new.pick(True, False))
        for _ in new.many(4, 6):
            new.row(
                "visit",
                patient=new.of("patient"),
                doctor=new.of("doctor"),
                visit_day=new.day(),
                visit_time=new.time(),
                memo="",
                status=new.pick("planned", "planned", "confirmed"),
            )

    def broken(self) -> Iterator[str]:
        slots = [(v["doctor"], v["visit_day"], v["visit_time"]) for v in self.state["visit"].values()]
        if len(set(slots)) < len(slots):
            yield "a doctor has two visits at once"

    def _free(self, doctor_id: str, visit_day: str, visit_time: str) -> None:
        taken = self.rows("visit", doctor=doctor_id, visit_day=visit_day, visit_time=visit_time)
        self.need(not taken, "The doctor has another visit then.", "医生那个时间已有预约。")

    @finds(
        "doctor",
        ("list the doctors for {field}|find out who does {field}", "看看{field}有哪些医生"),
        ("For {field} there are: {r.doctors.name}.", "{field}的医生有：{r.doctors.name}。"),
    )
    def list_doctors(self, field: Field) -> Result:
        """List the doctors of one field of medicine. | 列出某个科室的医生。"""
        return self.found("doctor", field=field)

    @finds("patient")
    def find_patients(self, name: PatientName) -> Result:
        """Find patients by name. | 按姓名查找患者。"""
        return self.found("patient", name=name)

    @finds(
        "visit",
        ("look up all visits of {patient_id}", "查一下{patient_id}的所有预约"),
        ("{patient_id} has visits on: {r.visits.visit_day}.", "{patient_id}的预约日期：{r.visits.visit_day}。"),
    )
    def list_visits(self, patient_id: Patient) -> Result:
        """List the planned visits of a patient. | 列出一名患者的全部预约。"""
        self.get("patient", patient_id)
        return self.found("visit", patient=patient_id)

    @changes(
        (
            "book {patient_id} with {doctor_id} on {visit_day} at {visit_time}",
            "给{patient_id}预约{doctor_id}，{visit_day} {visit_time}",
        ),
        (
            "{patient_id} is booked with {doctor_id} on {visit_day} at {visit_time}.",
            "已为{patient_id}预约{doctor_id}，{visit_day} {visit_time}。",
        ),
    )
    def book_visit(
        self, patient_id: Patient, doctor_id: Doctor, visit_day: VisitDay, visit_time: VisitTime, memo: Reason = ""
    ) -> Result:
        """Book a visit with a doctor who is working. | 预约一位在岗的医生。"""
        self.get("patient", patient_id)
        self.need(self.get("doctor", doctor_id)["duty"] == "working", "The doctor is on leave.", "该医生正在休假。")
        self._free(doctor_id, visit_day, visit_time)
        return self.made(
            "visit",
            patient=patient_id,
            doctor=doctor_id,
            visit_day=visit_day,
            visit_time=visit_time,
            memo=memo,
            status="planned",
        )

    @changes(
        ("move {visit_id} to {visit_day} at {visit_time}", "把{visit_id}改到{visit_day} {visit_time}"),
        ("The visit is now on {visit_day} at {visit_time}.", "预约已改到{visit_day} {visit_time}。"),
        sets="visit_time",
    )
    def move_visit(self, visit_id: Visit, visit_day: VisitDay, visit_time: VisitTime) -> Result:
        """Move a visit that is not confirmed to another day and time. | 把尚未确认的预约改到另一个日期和时间。"""
        visit = self.get("visit", visit_id)
        self.need(
            visit["status"] == "planned",
            f"Visit {visit_id} is confirmed; withdraw the confirmation first.",
            f"预约{visit_id}已确认，请先撤销确认。",
            ("withdraw_confirmation", {"visit_id": visit_id}),
        )
        self._free(visit["doctor"], visit_day, visit_time)
        visit.update(visit_day=visit_day, visit_time=visit_time)
        return {"visit_id": visit_id, "visit_day": visit_day, "visit_time": visit_time}

    @changes(("confirm {visit_id}", "确认{visit_id}"), ("{visit_id} is confirmed.", "{visit_id}已确认。"))
    def confirm_visit(self, visit_id: Visit) -> Result:
        """Confirm a planned visit. | 确认一个预约。"""
        visit = self.get("visit", visit_id)
        self.need(visit["status"] == "planned", "The visit is confirmed already.", "该预约已经确认过。")
        visit["status"] = "confirmed"
        return {"visit_id": visit_id, "status": "confirmed"}

    @changes(
        ("withdraw the confirmation of {visit_id}", "撤销{visit_id}的确认"),
        ("{visit_id} is no longer confirmed.", "{visit_id}的确认已撤销。"),
    )
    def withdraw_confirmation(self, visit_id: Visit) -> Result:
        """Make a confirmed visit a planned one again. | 把已确认的预约恢复为待定。"""
        visit = self.get("visit", visit_id)
        self.need(visit["status"] == "confirmed", "The visit is not confirmed.", "该预约尚未确认。")
        visit["status"] = "planned"
        return {"visit_id": visit_id, "status": "planned"}

    @changes(
        ("call off {visit_id}|cancel {visit_id}", "取消{visit_id}"), ("{visit_id} is cancelled.", "{visit_id}已取消。")
    )
    def drop_visit(self, visit_id: Visit) -> Result:
        """Cancel a visit. | 取消一个预约。"""
        self.get("visit", visit_id)
        del self.state["visit"][visit_id]
        return {"visit_id": visit_id, "status": "cancelled"}

    @changes(
        ("switch {reminder} the reminders for {patient_id}", "{reminder}{patient_id}的短信提醒"),
        ("Reminders for {patient_id} are {reminder}.", "{patient_id}的短信提醒已{reminder}。"),
    )
    def set_reminder(self, patient_id: Patient, reminder: Remind) -> Result:
        """Switch a patient's reminders on or off. | 开启或关闭患者的短信提醒。"""
        self.get("patient", patient_id)["reminder"] = reminder
        return {"patient_id": patient_id, "reminder": reminder}

    @changes(
        ("write the memo {memo} into {visit_id}", "在{visit_id}里写备忘{memo}"),
        ("The memo of {visit_id} says {memo}.", "{visit_id}的备忘是{memo}。"),
        sets="memo",
    )
    def write_memo(self, visit_id: Visit, memo: Reason) -> Result:
        """Write a memo for the doctor into a visit. | 在预约里给医生写备忘。"""
        self.get("visit", visit_id)["memo"] = memo
        return {"visit_id": visit_id, "memo": memo}

    @reads(
        ("check whether {doctor_id} is working", "查一下{doctor_id}是否在岗"),
        ("The status of {doctor_id} is: {r.duty}.", "{doctor_id}的状态：{r.duty}。"),
    )
    def get_duty(self, doctor_id: Doctor) -> Result:
        """Whether a doctor is working or on leave. | 查询医生在岗还是休假。"""
        return {"doctor_id": doctor_id, "duty": self.get("doctor", doctor_id)["duty"]}
